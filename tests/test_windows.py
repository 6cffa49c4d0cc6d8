"""Windows leave no sample out, moments are the mean of their windows, and segments are runs of a label."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisper_emotion.audio import SHORTEST
from whisper_emotion.errors import UserError
from whisper_emotion.windows import (
    IMPROBABLE,
    SHORT,
    UNLIKE,
    Prediction,
    average_windows,
    cut_windows,
    join_moments,
    loudness,
    mean_probabilities,
    window_samples,
)


def blocks_of(samples, sizes):
    """Cut samples into blocks of these sizes, again and again."""
    place, number = 0, 0
    while place < len(samples):
        size = sizes[number % len(sizes)]
        yield samples[place : place + size]
        place, number = place + size, number + 1


@given(
    st.integers(SHORTEST, 6000),
    st.integers(SHORTEST, 2000),
    st.integers(1, 100),
    st.lists(st.integers(1, 3000), min_size=1, max_size=4),
)
def test_windows_cover_every_sample_in_order_whatever_the_blocks(total, window, percent, sizes):
    hop = max(40, window * percent // 100)
    samples = np.arange(total, dtype=np.float32)
    cut = list(cut_windows(blocks_of(samples, sizes), window, hop))
    starts = [start for start, _ in cut]
    assert starts == sorted(set(starts)) and starts[0] == 0
    for start, piece in cut:
        np.testing.assert_array_equal(piece, samples[start : start + len(piece)])
        assert SHORTEST <= len(piece) <= window
    assert all(start == number * hop and len(piece) == window for number, (start, piece) in enumerate(cut[:-1]))
    # No gap between neighbours, and the last one, alone, reaches the end.
    ends = [start + len(piece) for start, piece in cut]
    assert all(end >= start for end, start in zip(ends, starts[1:], strict=False))
    assert ends[-1] == total and all(end < total for end in ends[:-1])
    # It begins where the next hop does, or earlier by what it needs to have 25 ms.
    assert starts[-1] == min((len(cut) - 1) * hop, total - SHORTEST)


def lengths(total, window, hop):
    return [(start, len(piece)) for start, piece in cut_windows([np.zeros(total, np.float32)], window, hop)]


def test_the_last_window_by_hand():
    assert lengths(4000, 1000, 1000) == [(0, 1000), (1000, 1000), (2000, 1000), (3000, 1000)]
    assert lengths(3600, 1000, 1000) == [(0, 1000), (1000, 1000), (2000, 1000), (3000, 600)]
    assert lengths(3001, 1000, 1000) == [(0, 1000), (1000, 1000), (2000, 1000), (2601, 400)]
    assert lengths(2600, 1000, 500) == [(0, 1000), (500, 1000), (1000, 1000), (1500, 1000), (2000, 600)]
    assert lengths(900, 1000, 500) == [(0, 900)]
    assert lengths(399, 1000, 500) == [(0, 399)]  # refused by what reads the recording
    assert lengths(0, 1000, 500) == []


def test_a_window_is_cut_as_soon_as_the_recording_goes_on_behind_it():
    read = []

    def endless():
        while True:
            read.append(1)
            yield np.zeros(1000, np.float32)

    windows = cut_windows(endless(), 3000, 1500)
    for number in range(200):
        start, _ = next(windows)
        assert start == number * 1500
        assert 1000 * len(read) - (start + 3000) <= 1000  # never a block more than it needs


@pytest.mark.parametrize(
    ("window", "hop", "said"),
    [
        (0.01, None, "--window 0.01: must be from 0.025 to 30 seconds"),
        (30.5, None, "--window 30.5"),
        (float("nan"), None, "--window nan"),
        (4, 5, "--hop 5: must be from 0.02 to 4 seconds"),
        (4, 0, "--hop 0"),
        (4, -1, "--hop -1"),
        (4, float("nan"), "--hop nan"),
        (None, 2, "--hop 2: needs --window, give both"),
    ],
)
def test_windows_that_are_none_are_refused(window, hop, said):
    with pytest.raises(UserError, match=said):
        window_samples(window, hop)


def test_windows_in_samples():
    assert window_samples(None, None) == (64_000, 32_000)
    assert window_samples(3, None) == (48_000, 24_000)
    assert window_samples(0.025, None) == (400, 320)
    assert window_samples(30, 30) == (480_000, 480_000)


def alternating(samples: int, level: float) -> np.ndarray:
    """A signal whose RMS is its level, around 0."""
    return np.where(np.arange(samples) % 2, level, -level).astype(np.float32)


def test_loudness_is_that_of_the_loudest_25_ms():
    assert loudness(np.zeros(1000, np.float32)) == -200
    assert loudness(alternating(400, 1.0)) == pytest.approx(0)
    assert loudness(alternating(16_000, 0.1)) == pytest.approx(-20, abs=1e-4)
    # One loud stretch of 25 ms in 30 s of silence counts whole, also where it is the very last.
    for place in (0, 4000, 480_000 - 400):
        samples = np.zeros(480_000, np.float32)
        samples[place : place + 400] = alternating(400, 0.01)
        assert loudness(samples) == pytest.approx(-40, abs=1e-4)
    samples = np.zeros(650, np.float32)
    samples[-250:] = alternating(250, 0.01)  # 250 of the last 400
    assert loudness(samples) == pytest.approx(-40 + 10 * np.log10(250 / 400), abs=1e-3)


def test_loudness_ignores_a_constant_offset():
    assert loudness(np.full(16_000, 0.25, np.float32)) == -200
    assert loudness(alternating(16_000, 0.01) + np.float32(0.5)) == pytest.approx(-40, abs=1e-3)


def heard(start, end, angry, dbfs=-20.0):
    """A window or moment with two labels, or a silent one."""
    return Prediction("a.wav", start, end, dbfs, None if angry is None else {"angry": angry, "calm": 1 - angry})


def as_tuples(predictions):
    return [
        (
            one.start,
            one.end,
            one.label,
            None if one.probabilities is None else pytest.approx(one.probabilities["angry"]),
        )
        for one in predictions
    ]


def test_moments_and_segments_by_hand():
    windows = [heard(0, 4, 0.9), heard(2, 6, 0.5), heard(4, 8, 0.1), heard(6, 9, 0.2)]
    moments = list(average_windows(windows))
    # 0-2: first alone; 2-4: (0.9 + 0.5) / 2; 4-6: (0.5 + 0.1) / 2; 6-8: (0.1 + 0.2) / 2; 8-9: last alone
    assert as_tuples(moments) == [
        (0, 2, "angry", 0.9), (2, 4, "angry", 0.7), (4, 6, "calm", 0.3), (6, 8, "calm", 0.15), (8, 9, "calm", 0.2),
    ]  # fmt: skip
    # 0-4: 0.9 and 0.7 for two seconds each; 4-9: (2 * 0.3 + 2 * 0.15 + 1 * 0.2) / 5
    assert as_tuples(join_moments(moments)) == [(0, 4, "angry", 0.8), (4, 9, "calm", 0.22)]


def test_the_label_of_a_moment_is_that_of_the_mean_not_of_the_majority():
    windows = [heard(0, 3, 0.98), heard(1, 4, 0.4), heard(2, 5, 0.45)]
    (moment,) = [one for one in average_windows(windows) if one.start == 2]
    assert (moment.end, moment.label) == (3, "angry")  # (0.98 + 0.4 + 0.45) / 3 = 0.61, though two say calm
    assert moment.probabilities["angry"] == pytest.approx(0.61)


def test_what_a_silent_window_covers_is_silence():
    windows = [heard(0, 4, 0.9), heard(2, 6, None, -80), heard(4, 8, None, -75), heard(6, 10, 0.8, -30)]
    moments = list(average_windows(windows))
    assert as_tuples(moments) == [
        (0, 2, "angry", 0.9), (2, 4, None, None), (4, 6, None, None), (6, 8, None, None), (8, 10, "angry", 0.8),
    ]  # fmt: skip
    assert [one.dbfs for one in moments] == [-20, -80, -80, -75, -30]
    segments = list(join_moments(moments))
    assert as_tuples(segments) == [(0, 2, "angry", 0.9), (2, 8, None, None), (8, 10, "angry", 0.8)]
    assert [one.dbfs for one in segments] == [-20, -75, -30]


def test_nothing_and_one_window_merge_to_themselves():
    assert list(average_windows([])) == [] and list(join_moments([])) == []
    window = heard(0, 1.5, 0.3)
    assert list(join_moments(average_windows([window]))) == [window]


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=1, max_size=12), st.integers(1, 6), st.integers(1, 6))
def test_moments_and_segments_lie_side_by_side_and_keep_the_mean(values, window, hop):
    hop = min(hop, window)
    windows = [heard(place * hop, place * hop + window, value) for place, value in enumerate(values)]
    moments, end = list(average_windows(windows)), windows[-1].end
    segments = list(join_moments(moments))
    for stretches in (moments, segments):
        assert stretches[0].start == 0 and stretches[-1].end == end
        assert all(one.end == other.start for one, other in zip(stretches, stretches[1:], strict=False))
    assert all(one.label != other.label for one, other in zip(segments, segments[1:], strict=False))
    for second in range(end):  # whole numbers: every moment consists of whole seconds
        covering = [one for one in windows if one.start <= second < one.end]
        (moment,) = [one for one in moments if one.start <= second < one.end]
        if any(one.probabilities is None for one in covering):
            assert moment.probabilities is None
        else:
            mean = np.mean([one.probabilities["angry"] for one in covering])
            assert moment.probabilities["angry"] == pytest.approx(mean)

    def total(stretches):
        return sum((one.end - one.start) * one.probabilities["angry"] for one in stretches if one.probabilities)

    assert total(segments) == pytest.approx(total(moments))


def test_moments_are_given_while_windows_come():
    taken = []

    def endless():
        for place in range(1000):
            taken.append(place)
            yield heard(place, place + 2, 0.9)

    moments = average_windows(endless())
    for place in range(100):
        assert next(moments).start == place
        assert len(taken) <= place + 2


def test_the_mean_over_a_recording_is_over_time_and_leaves_silence_out():
    moments = [heard(0, 2, 0.9), heard(2, 7, None), heard(7, 8, 0.3)]
    assert mean_probabilities(moments) == pytest.approx({"angry": (2 * 0.9 + 0.3) / 3, "calm": (2 * 0.1 + 0.7) / 3})
    assert mean_probabilities([heard(0, 2, None)]) is None
    assert [moment.certainty for moment in moments] == [0.9, 0, 0.7]


@pytest.mark.parametrize(
    ("end", "novelty", "sure_probability", "reason"),
    [
        (4.0, 0.9, 0.6, None),
        (4.0, 0.9, 0.75, IMPROBABLE),
        (0.4, 0.9, 0.75, SHORT),
        (0.4, 1.1, 0.75, UNLIKE),
        (0.4, 0.0, 0.0, None),  # a model that knows no limits
    ],
)
def test_the_strongest_reason_says_why_a_label_is_unsure(end, novelty, sure_probability, reason):
    named = {"sad": 0.7, "angry": 0.3}
    assert Prediction("a.wav", 0.0, end, -20.0, named, sure_probability, novelty).unsure == reason
    assert Prediction("a.wav", 0.0, end, -20.0, None, sure_probability, novelty).unsure is None


def test_moments_and_segments_are_unsure_as_their_windows_are():
    speech = Prediction("a.wav", 0.0, 4.0, -20.0, {"sad": 0.9, "angry": 0.1}, 0.6, 0.5)
    music = Prediction("a.wav", 2.0, 6.0, -20.0, {"sad": 0.7, "angry": 0.3}, 0.6, 3.0)
    moments = list(average_windows([speech, music]))
    assert [(one.start, one.end, one.novelty) for one in moments] == [(0, 2, 0.5), (2, 4, 1.75), (4, 6, 3.0)]
    heard, other = join_moments(moments)  # of one label, but the music stands apart
    assert (heard.end, heard.unsure) == (2.0, None)
    assert (other.start, other.unsure) == (2.0, UNLIKE)
    assert other.novelty == pytest.approx(2.375)
    assert other.sure_probability == 0.6
