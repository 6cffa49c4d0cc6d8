"""What phones and browsers record is decoded by FFmpeg, from files that FFmpeg has written here."""

import io
import sys

import av
import numpy as np
import pytest
from conftest import media_file

from whisper_emotion.audio import SAMPLING_RATE, audio_seconds, read_audio, read_header, read_stretch, stream_audio
from whisper_emotion.errors import UserError

FORMATS = {
    "m4a": ("ipod", "aac", 44_100),
    "mp4": ("mp4", "aac", 48_000),
    "3gp": ("3gp", "aac", 16_000),
    "aac": ("adts", "aac", 16_000),
    "webm": ("webm", "libopus", 48_000),
    "mka": ("matroska", "libopus", 48_000),
    "amr": ("amr", "libopencore_amrnb", 8_000),
}


def tone(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    one = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
    return np.repeat(one[:, None], channels, axis=1)


@pytest.mark.parametrize("suffix", FORMATS)
def test_media_is_read_whole_and_in_blocks(tmp_path, suffix):
    form, codec, rate = FORMATS[suffix]
    path = tmp_path / f"tone.{suffix}"
    channels = 1 if suffix == "amr" else 2
    path.write_bytes(media_file(form, codec, tone(21.0, rate, channels), rate))
    samples = read_audio(path)
    assert len(samples) == pytest.approx(21 * SAMPLING_RATE, abs=0.15 * SAMPLING_RATE)  # encoders pad
    middle = samples[8000:-8000]
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.2)
    assert np.abs(np.fft.rfft(middle)).argmax() * SAMPLING_RATE / len(middle) == pytest.approx(440, abs=1)
    blocks = list(stream_audio(path))
    assert len(blocks) >= 3
    np.testing.assert_array_equal(np.concatenate(blocks), samples)
    np.testing.assert_array_equal(read_stretch(path, 9.5, 12.25), samples[152_000:196_000])
    np.testing.assert_array_equal(read_audio({"bytes": path.read_bytes(), "path": None}), samples)
    assert read_header(path)[1:] == (rate, channels)
    assert audio_seconds(path) == pytest.approx(len(samples) / SAMPLING_RATE, abs=0.1)


@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_s32le", "pcm_u8", "pcm_f32le", "alac"])
def test_media_without_loss_gives_the_very_samples(codec):
    samples = np.array([[-1.0, 0.5], [0.25, 0.25], [0.0, -0.5]] * 400)
    content = media_file("mov", codec, samples, SAMPLING_RATE)
    expected = np.array([-0.25, 0.25, -0.25] * 400, np.float32)
    np.testing.assert_array_equal(read_audio({"bytes": content}), expected)


def test_a_browser_s_webm_without_a_duration_has_a_length():
    content = media_file("webm", "libopus", tone(2.0, 48_000), 48_000)
    place = content.index(b"\x44\x89\x88")  # Duration, 8 bytes: made an element of no meaning (Void)
    content = content[:place] + b"\xec\x89\0" + content[place + 3 :]
    assert audio_seconds({"bytes": content}) == pytest.approx(2.0, abs=0.05)
    assert len(read_audio({"bytes": content})) == pytest.approx(2 * SAMPLING_RATE, abs=400)


def test_cut_media_is_read_as_far_as_it_goes_and_one_line_says_so(caplog):
    for suffix in ("aac", "webm", "amr"):
        form, codec, rate = FORMATS[suffix]
        content = media_file(form, codec, tone(4.0, rate), rate)
        caplog.clear()
        samples = read_audio({"bytes": content[: len(content) * 5 // 8 + 3], "path": f"a.{suffix}"})
        assert 2 * SAMPLING_RATE < len(samples) < 3 * SAMPLING_RATE
        (record,) = caplog.records
        assert record.getMessage().startswith(f"a.{suffix}: ends early (")


def test_an_mp4_without_its_index_is_refused():
    content = media_file("mp4", "aac", tone(2.0, 48_000), 48_000)
    with pytest.raises(UserError, match=r"^a\.m4a: cannot be decoded \(Invalid data"):
        read_audio({"bytes": content[: len(content) // 2], "path": "a.m4a"})


def test_damage_within_media_is_refused():
    content = bytearray(media_file("adts", "aac", tone(4.0, 16_000), 16_000))
    place = len(content) // 2
    content[place : place + 3000] = bytes(255 - value for value in content[place : place + 3000])
    with pytest.raises(UserError, match=r"^a\.aac: cannot be decoded \("):
        read_audio({"bytes": bytes(content), "path": "a.aac"})


def test_media_without_sound_is_refused():
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        container.mux(stream.encode(None))
    for read in (read_audio, audio_seconds):
        with pytest.raises(UserError, match=r"^film\.mp4: holds no audio stream"):
            read({"bytes": file.getvalue(), "path": "film.mp4"})


def test_without_pyav_one_line_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "a.m4a"
    path.write_bytes(media_file("ipod", "aac", tone(1.0, 44_100), 44_100))
    monkeypatch.setitem(sys.modules, "av", None)
    for read in (read_audio, audio_seconds, lambda path: list(stream_audio(path))):
        with pytest.raises(UserError, match=r"a\.m4a: .* needs PyAV\. pip install 'whisper-emotion\[media\]'$"):
            read(path)
