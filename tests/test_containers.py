"""Links of chained files, headers without a length, and files that end early, on bytes made by hand."""

import io
import struct

import numpy as np
import pytest
import soundfile
from conftest import media_file

from whisper_emotion.audio import audio_seconds, read_audio
from whisper_emotion.containers import Span, find_links, media_format
from whisper_emotion.errors import UserError

RATE = 16_000
NOISE = np.random.default_rng(0).normal(0, 0.1, RATE).clip(-1, 1)


def encoded(form: str, subtype: str, rate: int = RATE, seconds: int = 1) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.tile(NOISE, seconds), rate, subtype, format=form)
    return file.getvalue()


def read(content: bytes) -> np.ndarray:
    return read_audio({"bytes": content, "path": "clip"})


def pcm_wav(size: int, samples: np.ndarray, behind: bytes = b"", riff_size: int = 0) -> bytes:
    """A 16-bit WAV whose `data` chunk claims a size in bytes."""
    head = struct.pack(
        "<4sI4s4sIHHIIHH4sI", b"RIFF", riff_size, b"WAVE", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16, b"data", size
    )
    return head + samples.astype("<i2").tobytes() + behind


SAMPLES = np.arange(-1000, 1000)
BEFORE = "the part before the cut is used"


@pytest.mark.parametrize("samples", [SAMPLES, 0 * SAMPLES], ids=["ramp", "silence"])
@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
def test_an_unfinished_wav_is_read_to_its_end(size, samples, caplog):
    content = pcm_wav(size, samples)
    np.testing.assert_array_equal(read(content), samples.astype(np.float32) / 2**15)
    assert audio_seconds({"bytes": content}) == 2000 / RATE
    assert not caplog.records


def test_a_wav_with_chunks_but_no_samples_holds_no_audio():
    with pytest.raises(UserError, match="clip: holds no audio"):
        read(pcm_wav(0, SAMPLES[:0], b"LIST\x04\0\0\0abcd", riff_size=48))
    with pytest.raises(UserError, match="clip: holds no audio"):
        read(pcm_wav(0, SAMPLES[:0]))


def test_chunks_behind_the_samples_are_not_read():
    assert len(read(pcm_wav(4000, SAMPLES, b"LIST\x04\0\0\0abcd"))) == 2000


def test_a_cut_wav_is_read_as_far_as_it_goes_and_one_line_says_so(caplog):
    content = pcm_wav(8000, SAMPLES)  # 8000 bytes announced, 4000 there
    np.testing.assert_array_equal(read(content), SAMPLES.astype(np.float32) / 2**15)
    (record,) = caplog.records
    said = f"clip: ends early (4,000 of 8,000 bytes are missing): {BEFORE}"
    assert record.getMessage() == said


@pytest.mark.parametrize("form", ["AIFF", "AU", "W64", "RF64"])
def test_other_cut_files_are_read_as_far_as_they_go_and_one_line_says_so(form, caplog):
    whole = encoded(form, "PCM_16")
    assert len(read(whole)) == RATE and not caplog.records
    samples = read(whole[: len(whole) // 2])
    np.testing.assert_array_equal(samples, read(whole)[: len(samples)])
    assert 0.48 * RATE < len(samples) < 0.5 * RATE
    assert [record.getMessage().split(" (")[0] for record in caplog.records] == ["clip: ends early"]


@pytest.mark.parametrize("subtypes", [["VORBIS", "VORBIS"], ["OPUS", "VORBIS", "OPUS"]])
def test_all_links_of_a_chained_ogg_are_read(subtypes, caplog):
    links = [encoded("OGG", subtype) for subtype in subtypes]
    np.testing.assert_array_equal(read(b"".join(links)), np.concatenate([read(link) for link in links]))
    assert audio_seconds({"bytes": b"".join(links)}) == len(links)
    assert not caplog.records


def test_links_of_other_rates_are_resampled_each():
    links = [encoded("OGG", "VORBIS", 44_100), encoded("OGG", "VORBIS"), encoded("OGG", "VORBIS", 8_000)]
    samples = read(b"".join(links))
    expected = np.concatenate([read(link) for link in links])
    assert len(samples) == len(expected) == pytest.approx(RATE * (RATE / 44_100 + 1 + 2), abs=2)
    np.testing.assert_array_equal(samples, expected)


def test_a_cut_ogg_is_read_as_far_as_it_goes_and_one_line_says_so(caplog):
    content = encoded("OGG", "OPUS", seconds=4)
    for end in (-5, content.rindex(b"OggS")):  # within the last page, and before it
        assert RATE < len(read(content[:end])) < 4 * RATE
    assert [record.getMessage().partition(":")[2] for record in caplog.records] == [
        f" ends early (its last page is incomplete): {BEFORE}",
        f" ends early (its stream has no end): {BEFORE}",
    ]


def mp3() -> tuple[bytes, bytes]:
    """An MP3 with a Xing table of its length, and its frames without it."""
    whole = encoded("MP3", "MPEG_LAYER_III")
    assert b"Xing" in whole[:64]
    return whole, whole[whole.index(b"\xff\xf3", 2) :]


def test_an_mp3_without_a_table_is_read_to_its_end(caplog):
    whole, frames = mp3()
    count = int.from_bytes(whole[whole.index(b"Xing") + 8 :][:4], "big")
    samples = read(frames)
    # 576 samples a frame in MPEG 2; the decoder's own delay of 529 is cut off at the start.
    assert len(samples) == pytest.approx(576 * count, abs=529)
    delay = len(samples) - RATE  # without the table nobody knows the encoder's
    assert 0 < delay < 2500
    assert audio_seconds({"bytes": frames}) == len(samples) / RATE
    assert not caplog.records


def test_all_links_of_an_mp3_are_read(caplog):
    whole, frames = mp3()
    np.testing.assert_array_equal(read(whole + whole), np.concatenate([read(whole)] * 2))
    tag = b"ID3\x04\0\0\0\0\0\x0a" + bytes(10)
    for content in (frames + frames, frames + tag + frames, whole + frames):
        assert len(read(content)) == pytest.approx(2 * len(read(frames)), abs=2 * 576)
    other = encoded("MP3", "MPEG_LAYER_III", 44_100)
    np.testing.assert_array_equal(read(whole + other), np.concatenate([read(whole), read(other)]))
    assert not caplog.records


def test_tags_behind_an_mp3_are_not_read(caplog):
    whole, frames = mp3()
    for content in (whole, frames):
        assert len(read(content + b"TAG" + bytes(125))) == len(read(content))
    assert not caplog.records


def test_a_cut_mp3_is_read_as_far_as_it_goes_and_one_line_says_so(caplog):
    whole, _ = mp3()
    assert 0.3 * RATE < len(read(whole[: len(whole) // 2])) < 0.6 * RATE
    (record,) = caplog.records
    assert "clip: ends early (" in record.getMessage() and "of 16,000 samples could be decoded" in record.getMessage()


def test_a_span_is_a_file_of_its_own():
    span = Span(io.BytesIO(b"0123456789"), 4, 8, head=b"ab")
    assert span.read() == b"ab4567" and span.read() == b""
    assert (span.seek(1), span.read(3), span.tell()) == (1, b"b45", 4)
    assert (span.seek(-2, 2), span.read()) == (4, b"67")
    assert span.peek_at(1, 2) == b"b4" and span.peek_at(9, 2) == b"" and span.tell() == 6


def test_a_span_never_seeks_before_its_start():
    """Where a header lies about an offset; an exception would end in a traceback that nothing can catch."""
    span = Span(io.BytesIO(b"RIFF"))
    assert (span.seek(-1), span.read(2), span.seek(-3, 1), span.seek(-9, 2), span.seek(9)) == (0, b"RI", 0, 0, 9)
    assert span.read(1) == b""


def test_media_format_tells_what_libsndfile_lacks():
    stereo = np.zeros((4800, 2))
    for form, codec, rate, expected in [
        ("ipod", "aac", 48_000, "mp4"),
        ("mov", "pcm_s16le", 16_000, "mp4"),
        ("webm", "libopus", 48_000, "matroska"),
        ("adts", "aac", 16_000, "aac"),
    ]:
        assert media_format(Span(io.BytesIO(media_file(form, codec, stereo, rate)))) == expected
    for form, subtype in [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III"), ("OGG", "OPUS")]:
        assert media_format(Span(io.BytesIO(encoded(form, subtype)))) is None
    for content in (b"", b"\xff", b"no sound"):
        assert media_format(Span(io.BytesIO(content))) is None


def test_bytes_that_are_no_audio_are_one_link():
    for content in (b"", b"OggS", b"RIFF", b"FORM", b"\xff\xfb\x90\x00", b"ID3\x04"):
        assert len(find_links(Span(io.BytesIO(content)))[0]) == 1
