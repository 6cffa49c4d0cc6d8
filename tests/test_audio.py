import os
import sys

import numpy as np
import pytest
import soundfile
from conftest import without_privileges
from hypothesis import given
from hypothesis import strategies as st

from whisper_emotion import audio
from whisper_emotion.audio import SAMPLING_RATE, audio_seconds, read_audio, read_header, read_stretch, stream_audio
from whisper_emotion.errors import UserError


def tone(seconds: float, sampling_rate: int, frequency: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * sampling_rate)) / sampling_rate)


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_reads_mono_float32_as_it_is(tmp_path, suffix):
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, tone(0.5, SAMPLING_RATE), SAMPLING_RATE)
    samples = read_audio(path)
    assert samples.shape == (8000,) and samples.dtype == np.float32
    np.testing.assert_allclose(samples, tone(0.5, SAMPLING_RATE), atol=1 / 2**15)
    assert audio_seconds(path) == 0.5
    assert read_header(path) == (0.5, SAMPLING_RATE, 1)


@pytest.mark.parametrize("sampling_rate", [8_000, 22_050, 44_100, 48_000])
def test_resamples_to_16_khz(tmp_path, sampling_rate):
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(1.0, sampling_rate), sampling_rate, subtype="FLOAT")
    samples = read_audio(path)
    assert abs(len(samples) - SAMPLING_RATE) <= 1
    middle = slice(2000, 14_000)  # the filter's edges are not the tone's
    np.testing.assert_allclose(samples[middle], tone(1.0, SAMPLING_RATE)[middle], atol=1e-3)
    assert audio_seconds(path) == 1.0


def test_channels_are_mixed_by_their_mean(tmp_path):
    path = tmp_path / "stereo.wav"
    channels = np.array([[0.5, 0.25], [0.5, -0.5], [1.0, 0.0]] * 200)
    soundfile.write(path, channels, SAMPLING_RATE, subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(path), np.array([0.375, 0.0, 0.5] * 200, dtype=np.float32))


def test_audio_shorter_than_one_window_is_refused_by_name(tmp_path):
    path = tmp_path / "click.wav"
    soundfile.write(path, np.zeros(399), SAMPLING_RATE)
    with pytest.raises(UserError, match="click.wav: lasts 24.9 ms, expected at least 25 ms"):
        read_audio(path)


def test_reads_what_a_dataset_column_holds(tmp_path):
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(0.1, SAMPLING_RATE), SAMPLING_RATE)
    expected = read_audio(path)
    np.testing.assert_array_equal(read_audio({"path": str(path), "bytes": None}), expected)
    np.testing.assert_array_equal(read_audio({"path": None, "bytes": path.read_bytes()}), expected)
    np.testing.assert_array_equal(read_audio({"path": "gone.wav", "bytes": path.read_bytes()}), expected)
    with pytest.raises(UserError, match="neither a path nor bytes"):
        read_audio({"path": None, "bytes": None})
    with pytest.raises(UserError, match=r"^clip.wav: cannot be decoded"):
        read_audio({"path": "clip.wav", "bytes": b"nothing"})


@pytest.mark.parametrize(
    "content, message",
    [(b"", "cannot be decoded"), (b"RIFF", "cannot be decoded"), (b"text " * 100, "cannot be decoded")],
)
def test_a_file_that_is_no_sound_is_named(tmp_path, content, message):
    path = tmp_path / "clip.wav"
    path.write_bytes(content)
    for read in (read_audio, audio_seconds):
        with pytest.raises(UserError, match=message) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_a_missing_file_a_dangling_link_and_a_folder_are_named(tmp_path):
    link = tmp_path / "link.wav"
    link.symlink_to(tmp_path / "gone.wav")
    for path, message in [(tmp_path / "no.wav", "does not exist"), (link, "is a link to"), (tmp_path, "is a folder")]:
        for read in (read_audio, audio_seconds):
            with pytest.raises(UserError, match=message) as caught:
                read(path)
            assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems give up privileges in other ways")
def test_a_file_that_may_not_be_read_is_named(tmp_path):
    path = tmp_path / "secret.wav"
    soundfile.write(path, tone(0.1, SAMPLING_RATE), SAMPLING_RATE)
    path.chmod(0)
    with without_privileges(tmp_path), pytest.raises(UserError, match="may not be read"):
        read_audio(path)


def test_a_file_without_samples_is_refused(tmp_path):
    path = tmp_path / "empty.wav"
    soundfile.write(path, np.zeros(0), SAMPLING_RATE)
    for read in (read_audio, audio_seconds):
        with pytest.raises(UserError, match="holds no audio"):
            read(path)


def test_a_flac_cut_short_is_refused(tmp_path):
    path = tmp_path / "cut.flac"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 48_000), SAMPLING_RATE)
    path.write_bytes(path.read_bytes()[:20_000])
    for read in (read_audio, lambda path: list(stream_audio(path))):
        with pytest.raises(UserError, match=r"cut\.flac: cannot be decoded"):
            read(path)


def test_a_flac_of_unknown_length_is_refused(tmp_path):
    path = tmp_path / "streamed.flac"
    soundfile.write(path, tone(0.5, SAMPLING_RATE), SAMPLING_RATE)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # STREAMINFO's 36-bit count of samples, which an encoder that writes to a pipe leaves at 0
    data[22:26] = bytes(4)
    path.write_bytes(data)
    for read in (read_audio, audio_seconds):
        with pytest.raises(UserError, match=r"streamed\.flac: has no length in its header"):
            read(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused(tmp_path, value):
    path = tmp_path / "broken.wav"
    soundfile.write(path, np.array([0.0, value, 0.1]), SAMPLING_RATE, subtype="FLOAT")
    with pytest.raises(UserError, match=r"broken\.wav: holds samples that are NaN or infinite"):
        read_audio(path)


def test_reads_ravdess_originals(shared_dir):
    paths = sorted((shared_dir / "corpora" / "ravdess_originals").rglob("*.wav"))
    headers = [soundfile.info(path) for path in paths]
    assert {header.samplerate for header in headers} == {48_000}
    assert sum(header.channels == 2 for header in headers) == 5
    for path in paths:
        samples = read_audio(path)
        assert samples.ndim == 1 and np.isfinite(samples).all() and np.abs(samples).max() > 0.005
        assert len(samples) == pytest.approx(audio_seconds(path) * SAMPLING_RATE, abs=1)


@given(st.integers(1, 4), st.sampled_from([8_000, 11_025, 16_000, 24_000, 44_100, 96_000]), st.floats(0.03, 0.5))
def test_any_rate_and_channels_keep_the_length(tmp_path_factory, channels, sampling_rate, seconds):
    path = tmp_path_factory.getbasetemp() / "any.wav"
    soundfile.write(path, np.repeat(tone(seconds, sampling_rate)[:, None], channels, axis=1), sampling_rate)
    samples = read_audio(path)
    assert samples.dtype == np.float32
    assert len(samples) == pytest.approx(audio_seconds(path) * SAMPLING_RATE, abs=1)


@pytest.mark.parametrize("sampling_rate", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_a_stream_gives_the_very_samples_of_the_whole(tmp_path, suffix, sampling_rate):
    path = tmp_path / f"noise.{suffix}"
    stereo = np.random.default_rng(0).uniform(-0.5, 0.5, (round(25.3 * sampling_rate), 2))
    soundfile.write(path, stereo, sampling_rate)
    whole, blocks = read_audio(path), list(stream_audio(path))
    assert len(blocks) >= 3 and all(block.dtype == np.float32 for block in blocks)
    np.testing.assert_array_equal(np.concatenate(blocks), whole)
    np.testing.assert_array_equal(read_stretch(path, 9.5, 21.25), whole[152_000:340_000])
    np.testing.assert_array_equal(read_stretch(path, 0.0, len(whole) / SAMPLING_RATE), whole)


@pytest.mark.parametrize(
    ("suffix", "form", "subtype"), [("mp3", "MP3", None), ("ogg", "OGG", "VORBIS"), ("opus", "OGG", "OPUS")]
)
def test_compressed_formats_are_read_whole_and_in_blocks(tmp_path, suffix, form, subtype):
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, tone(21.0, 48_000), 48_000, format=form, subtype=subtype)
    samples = read_audio(path)
    assert len(samples) == pytest.approx(21 * SAMPLING_RATE, abs=0.1 * SAMPLING_RATE)  # encoders pad
    assert np.abs(samples[8000:-8000]).max() == pytest.approx(0.5, abs=0.05)
    np.testing.assert_allclose(np.concatenate(list(stream_audio(path))), samples, atol=1e-6)


def test_a_stream_is_read_no_further_than_it_is_asked_for(tmp_path):
    path = tmp_path / "broken.wav"
    samples = tone(40.0, SAMPLING_RATE)
    samples[35 * SAMPLING_RATE] = np.nan
    soundfile.write(path, samples, SAMPLING_RATE, subtype="FLOAT")
    stream = stream_audio(path)
    assert sum(len(next(stream)) for _ in range(3)) == 30 * SAMPLING_RATE
    with pytest.raises(UserError, match=r"broken\.wav: holds samples that are NaN"):
        next(stream)
    assert len(read_stretch(path, 28, 30)) == 2 * SAMPLING_RATE


def test_a_stream_of_less_than_one_window_is_refused(tmp_path):
    path = tmp_path / "click.wav"
    soundfile.write(path, np.zeros(399), SAMPLING_RATE)
    with pytest.raises(UserError, match="click.wav: lasts 24.9 ms"):
        list(stream_audio(path))
    soundfile.write(path, np.zeros(0), SAMPLING_RATE)
    with pytest.raises(UserError, match="holds no audio"):
        list(stream_audio(path))


def test_a_header_s_claims_take_no_memory(tmp_path):
    """A FLAC that claims 10^10 samples (40 GB), and a wav of 2^31 - 1 Hz (its blocks would take 80 GB)."""
    path = tmp_path / "claims.flac"
    soundfile.write(path, tone(0.5, SAMPLING_RATE), SAMPLING_RATE)
    data = bytearray(path.read_bytes())
    data[21], data[22:26] = (data[21] & 0xF0) | 2, (10**10 - 2 * 2**32).to_bytes(4, "big")  # STREAMINFO's 36 bits
    path.write_bytes(data)
    assert audio_seconds(path) == 10**10 / SAMPLING_RATE
    for read in (read_audio, lambda path: list(stream_audio(path))):
        try:
            assert np.concatenate([np.ravel(block) for block in read(path)]).size == 8000
        except UserError as error:  # some versions of libsndfile refuse to decode it
            assert str(error).startswith(f"{path}: ")
    path = tmp_path / "claims.wav"
    soundfile.write(path, tone(0.5, SAMPLING_RATE), SAMPLING_RATE)
    data = bytearray(path.read_bytes())
    for rate in (1, 2**31 - 1):
        data[24:28] = rate.to_bytes(4, "little")
        path.write_bytes(data)
        for read in (read_audio, audio_seconds, lambda path: list(stream_audio(path))):
            with pytest.raises(
                UserError, match=r"claims\.wav: has [\d,]+ samples a second, expected 1,000 to 1,000,000"
            ):
                read(path)


def test_samples_beyond_all_measure_are_refused(tmp_path):
    path = tmp_path / "loud.wav"
    samples = tone(0.5, 44_100)
    samples[100] = 1e30  # finite, and its spectrogram is not
    soundfile.write(path, samples, 44_100, subtype="FLOAT")
    for read in (read_audio, lambda path: list(stream_audio(path))):
        with pytest.raises(UserError, match=r"loud\.wav: holds samples beyond all measure"):
            read(path)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    path = tmp_path / "pipe.wav"
    os.mkfifo(path)
    for read in (read_audio, audio_seconds, lambda path: list(stream_audio(path))):
        with pytest.raises(UserError, match=r"pipe\.wav: is a pipe or a device, expected a sound file"):
            read(path)


def test_a_name_that_is_no_valid_text_is_read(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff.wav")
    with open(path, "wb") as file:
        soundfile.write(file, tone(0.5, SAMPLING_RATE), SAMPLING_RATE, format="WAV")
    assert len(read_audio(path)) == len(np.concatenate(list(stream_audio(path)))) == 8000
    assert audio_seconds(path) == 0.5


def test_bytes_whose_decoder_seeks_before_their_start_are_read_from_there():
    """Where the header lies about an offset; an exception would end in a traceback that nothing can catch."""
    _, file = audio._open({"bytes": b"RIFF"})
    assert (file.seek(-1), file.read(2), file.seek(-1, 1), file.seek(-1, 2)) == (0, b"RI", 1, 3)
