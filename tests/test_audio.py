import os
import sys

import numpy as np
import pytest
import soundfile
import torch
from conftest import without_privileges
from hypothesis import given
from hypothesis import strategies as st

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
    with pytest.raises(UserError, match="neither an array nor a path nor bytes"):
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
    for path, message in [
        (tmp_path / "no.wav", "does not exist"),
        (tmp_path / ("a" * 5000), "cannot be opened"),
        (link, "is a link to"),
        (tmp_path, "is a folder"),
    ]:
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
        with pytest.raises(UserError, match=r"loud\.wav: holds samples of up to 1e\+30, expected audio within"):
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


RAMP = np.linspace(-1, 1, 4001)[:4000]


class Decoder:
    """What torchcodec's `AudioDecoder` offers, of `(channels, samples)`."""

    def __init__(self, data, sample_rate):
        self.data, self.sample_rate = data, sample_rate

    def get_all_samples(self):
        return self


@pytest.mark.parametrize(
    "source",
    [
        (RAMP, SAMPLING_RATE),
        (RAMP.astype(np.float32)[None], np.int64(SAMPLING_RATE)),
        (RAMP.tolist(), float(SAMPLING_RATE)),
        {"array": RAMP, "sampling_rate": SAMPLING_RATE, "path": None},
        {"array": RAMP, "sampling_rate": SAMPLING_RATE, "path": "gone.wav", "bytes": b"other"},
        Decoder(torch.tensor(RAMP)[None], SAMPLING_RATE),
        (np.stack([RAMP / 2, RAMP * 1.5]), SAMPLING_RATE),
        (np.stack([RAMP / 2, RAMP * 1.5], axis=1), SAMPLING_RATE),
    ],
    ids=["pair", "row", "list", "mapping", "mapping with a path", "decoder", "two rows", "two columns"],
)
def test_read_audio_takes_arrays(source):
    np.testing.assert_allclose(read_audio(source), RAMP, atol=1e-7)
    np.testing.assert_array_equal(np.concatenate(list(stream_audio(source))), read_audio(source))
    np.testing.assert_array_equal(read_stretch(source, 0.125, 0.2), read_audio(source)[2000:3200])
    assert read_header(source)[:2] == (0.25, SAMPLING_RATE)


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([-(2**15), 2**14, 0], np.int16, [-1, 0.5, 0]),
        ([-(2**15), 2**14, 0], ">i2", [-1, 0.5, 0]),
        ([-(2**31), 2**30, 0], np.int32, [-1, 0.5, 0]),
        ([0, 192, 128], np.uint8, [-1, 0.5, 0]),
    ],
)
def test_read_audio_scales_integer_arrays(values, kind, expected):
    array = np.array(values * 200).astype(kind)
    np.testing.assert_array_equal(read_audio((array, SAMPLING_RATE)), np.array(expected * 200, np.float32))


def test_read_audio_gives_an_array_the_samples_of_its_file(tmp_path):
    path = tmp_path / "noise.wav"
    noise = np.random.default_rng(0).integers(-(2**14), 2**14, (12 * 44_100, 2)).astype(np.int16)
    soundfile.write(path, noise, 44_100)
    np.testing.assert_array_equal(read_audio((noise, 44_100)), read_audio(path))
    np.testing.assert_array_equal(read_audio((noise.T, 44_100)), read_audio(path))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ((np.zeros(800, np.int64), 16_000), "audio array: holds int64 samples, expected floats"),
        ((np.zeros(800, bool), 16_000), "audio array: holds bool samples"),
        ((np.zeros((2, 3, 800)), 16_000), r"audio array: has the shape \(2, 3, 800\)"),
        ((np.zeros(0), 16_000), "audio array: holds no audio"),
        ((np.zeros((800, 0)), 16_000), "audio array: holds no audio"),
        ((np.zeros(399), 16_000), "audio array: lasts 24.9 ms"),
        ((16_000, np.zeros(800)), "audio array: has the sampling rate array"),
        ((np.zeros(800), None), "audio array: has the sampling rate None, expected .array, rate in Hz."),
        ((np.zeros(800), np.nan), "audio array: has the sampling rate nan"),
        ((np.zeros(800), 16_000.5), "audio array: has the sampling rate 16000.5"),
        ((np.zeros(800), 16), "audio array: has 16 samples a second"),
        ((np.zeros(800), 16_000, 1), "audio array: is a tuple of 3"),
        (([[0.0] * 800, [0.0]], 16_000), "audio array: is not an array"),
        ((torch.zeros(800, requires_grad=True), 16_000), "audio array: is not an array"),
        ({"array": np.zeros(800), "path": "a.wav"}, "a.wav: has the sampling rate None"),
        ({"array": [np.nan] * 800, "sampling_rate": 16_000, "path": "a.wav"}, "a.wav: holds samples that are NaN"),
        ({"array": [1e300] * 800, "sampling_rate": 16_000}, "audio array: holds samples that are NaN or infinite"),
        (np.zeros(800), "audio: is a ndarray, expected a path, .array, sampling_rate."),
        (None, "audio: is a NoneType"),
    ],
)
def test_read_audio_refuses_other_arrays(source, message):
    with pytest.raises(UserError, match=f"^{message}") as caught:
        read_audio(source)
    assert "\n" not in str(caught.value)


def test_read_audio_names_a_decoder_that_fails():
    class Broken:
        def get_all_samples(self):
            raise RuntimeError("no\nframes")

    with pytest.raises(UserError, match=r"^audio decoder: cannot be decoded \(no frames\)"):
        read_audio(Broken())


def test_float_samples_on_an_integer_scale_are_refused(tmp_path):
    path = tmp_path / "scale.wav"
    soundfile.write(path, tone(0.5, SAMPLING_RATE) * 2**15, SAMPLING_RATE, subtype="FLOAT")
    for source in (path, (tone(0.5, SAMPLING_RATE) * 2**15, SAMPLING_RATE)):
        with pytest.raises(UserError, match=r": holds samples of up to 16,384, expected .* Divide integers"):
            read_audio(source)
    soundfile.write(path, tone(0.5, SAMPLING_RATE) * 4, SAMPLING_RATE, subtype="FLOAT")  # clipping, and plausible
    assert np.abs(read_audio(path)).max() == pytest.approx(2, abs=1e-3)


def test_the_louder_channel_is_used_where_the_mean_cancels(tmp_path, caplog):
    speech = np.random.default_rng(0).normal(0, 0.1, 25 * SAMPLING_RATE).astype(np.float32)
    path = tmp_path / "inverted.wav"
    soundfile.write(path, np.stack([-0.9 * speech, speech + 0.01], axis=1), SAMPLING_RATE, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(path), speech + 0.01, atol=1e-6)
    soundfile.write(path, np.stack([-speech, speech], axis=1), SAMPLING_RATE, subtype="FLOAT")
    caplog.clear()
    np.testing.assert_array_equal(read_audio(path), -speech)
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: its channels cancel each other out, so channel 1, the louder one, is used"
    ]


def test_other_channels_are_averaged_without_a_word(caplog):
    first, second = np.random.default_rng(0).normal(0, 0.1, (2, 32_000)).astype(np.float32)
    silent = np.zeros_like(first)
    for channels in ([first, second], [first, silent], [first, -0.3 * first + second], [silent, silent], [first] * 9):
        np.testing.assert_allclose(
            read_audio((np.stack(channels), SAMPLING_RATE)), np.mean(channels, axis=0), atol=1e-7
        )
    one_of_many = np.stack([first, *[silent] * 15])
    np.testing.assert_allclose(read_audio((one_of_many, SAMPLING_RATE)), first / 16, atol=1e-7)
    assert not caplog.records


def test_a_short_last_block_is_mixed_like_the_one_before(caplog):
    first, second = np.random.default_rng(0).normal(0, 0.1, (2, 10 * SAMPLING_RATE)).astype(np.float32)
    tail = np.float32([0.1, -0.1])  # two samples always correlate
    stereo = np.stack([np.concatenate([first, tail]), np.concatenate([second, -tail])])
    np.testing.assert_array_equal(read_audio((stereo, SAMPLING_RATE))[-2:], [0, 0])
    assert not caplog.records
