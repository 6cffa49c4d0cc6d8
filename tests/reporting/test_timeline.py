"""The pictures of emotion over time and of explanations: their content, for any labels."""

import io

import numpy as np
import pytest
import soundfile
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from whisper_emotion.explanation import Explanation
from whisper_emotion.reporting.attention import AGAINST, FOR, PAUSE, plot_explanation
from whisper_emotion.reporting.timeline import COLUMNS, _columns, _join_columns, draw_waveform, plot_timeline
from whisper_emotion.windows import Prediction, average_windows, join_moments

LABELS = ["angry", "$calm$"]


@pytest.fixture
def figure_of(monkeypatch):
    """Draws, and returns the figure."""
    figures = []
    draw = FigureCanvasAgg.print_figure
    monkeypatch.setattr(
        FigureCanvasAgg, "print_figure", lambda self, *a, **k: (figures.append(self.figure), draw(self, *a, **k))[1]
    )

    def make(plot, *arguments):
        plot(*arguments)
        return figures[-1]

    return make


def texts(figure):
    return {text.get_text() for text in figure.findobj(Text) if text.get_text() and text.get_visible()}


def windows(values, hop=2.0, length=4.0, labels=LABELS):
    named = [None if value is None else dict(zip(labels, value, strict=True)) for value in values]
    return [Prediction("a.wav", hop * k, hop * k + length, -20.0, one) for k, one in enumerate(named)]


def test_the_picture_names_segments_silence_and_time(tmp_path, figure_of):
    moments = list(average_windows(windows([(0.9, 0.1), (0.8, 0.2), None, None, None, (0.1, 0.9), (0.2, 0.8)])))
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).uniform(-0.5, 0.5, 16 * 16_000), 16_000)
    path, file = tmp_path / "a.png", str(tmp_path / "a.wav")
    figure = figure_of(plot_timeline, path, "by $a$", file, LABELS, moments, list(join_moments(moments)))
    shown = texts(figure)
    finding = "a.wav: mostly angry (50%), then $calm$ (50%) of the time without silence"  # 4 s each
    assert {
        finding,
        "by $a$",
        "angry",
        "$calm$",
        "silence",
        "silence, not labelled",
        "time (s)",
        "probability",
    } <= shown
    assert figure.axes[-1].get_xlim() == (0, 16)
    height, width = imread(path).shape[:2]
    assert width > 1200 and height > 600


@pytest.mark.parametrize(("seconds", "axis"), [(30, "time (s)"), (600, "time (min:s)"), (9000, "time (h:min)")])
def test_any_length_and_many_labels_are_drawn(tmp_path, figure_of, seconds, axis):
    labels = [f"a rather long emotion {number}" for number in range(11)]
    rng = np.random.default_rng(0)
    moments = [
        Prediction(
            "a.wav", start, start + 2.0, -20.0, dict(zip(labels, rng.dirichlet(np.ones(11)).tolist(), strict=True))
        )
        for start in np.arange(0.0, seconds, 2.0).tolist()
    ]
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000), 16_000)  # shorter than its moments, for speed
    arguments = (
        tmp_path / "a.png",
        "title " * 50,
        str(tmp_path / "a.wav"),
        labels,
        moments,
        list(join_moments(moments)),
    )
    assert axis in texts(figure_of(plot_timeline, *arguments))


def test_columns_of_a_long_recording_are_means_over_time():
    rng = np.random.default_rng(0)
    count = 2 * COLUMNS
    values = [None if rng.random() < 0.2 else (p, 1 - p) for p in rng.random(count)]
    moments = windows(values, hop=1.5, length=1.5)
    edges, shares = _columns(LABELS, moments)
    assert len(edges) == COLUMNS + 1 and edges[-1] == pytest.approx(1.5 * count)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    expected = np.array([(0, 0, 1) if value is None else (*value, 0) for value in values]).reshape(COLUMNS, 2, 3)
    np.testing.assert_allclose(shares, expected.mean(axis=1), atol=1e-8)
    blocks = _join_columns(np.array([0, 1.5, 3, 4.5, 6]), ["angry", "angry", None, "angry"])
    assert blocks == [(0, 3, "angry"), (3, 4.5, None), (4.5, 6, "angry")]
    edges, shares = _columns(LABELS, moments[:3])
    np.testing.assert_array_equal(edges, [0, 1.5, 3, 4.5])


def test_a_waveform_keeps_its_peaks_whatever_the_blocks():
    samples = np.zeros(5 * 16_000, np.float32)
    samples[12_345], samples[-1] = 0.5, -0.25
    figure = Figure()
    for blocks in ([samples], np.split(samples, [7, 12_345, 12_346, 40_000])):
        axes = figure.add_subplot()
        draw_waveform(axes, blocks, 10.0, 5.0)
        (outline,) = axes.collections
        points = outline.get_paths()[0].vertices
        assert points[:, 1].max() == 0.5 and points[:, 1].min() == -0.25
        assert points[points[:, 1].argmax(), 0] == pytest.approx(10 + 12_345 / 16_000, abs=0.005)


def explanation(heads, evidence=False, behind=0.0):
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(50), heads) * (1 - behind)
    return Explanation(
        {"angry": 0.7, "calm": 0.2, "sad": 0.1}, 0.0, np.zeros(16_000, np.float32), np.zeros((80, 100), np.float32),
        np.linspace(40, 7900, 80), weights, behind, rng.normal(size=50) if evidence else None, np.ones(50, bool),
    )  # fmt: skip


def test_pooling_weights_are_drawn_by_head_and_averaged(tmp_path, figure_of):
    one = explanation(6)._replace(weights=np.eye(50)[[10] * 6] * 0.94 + 0.0012)
    figure = figure_of(plot_explanation, tmp_path / "a.png", "a.wav", "by mine", one, 100.0)
    (title,) = (text.replace("\n", " ") for text in texts(figure) if text.startswith("a.wav: "))
    assert title == (
        "a.wav: angry (70%). The model looked most at 100.2 s; half of the weight lies on 2% of the frames"
    )
    assert {"head", "weight", "mel band (kHz)", "amplitude", "time (s)"} <= texts(figure)
    assert any(text.startswith("Curve: the pooling's weights") and text.endswith("by mine") for text in texts(figure))
    assert figure.axes[2].get_xlim() == (100, 101)
    assert "head" not in texts(figure_of(plot_explanation, tmp_path / "a.png", "a.wav", "", explanation(1)))


def test_pooling_weights_nearly_alike_do_not_stand_out(tmp_path):
    flat = explanation(6)._replace(weights=np.full((6, 50), 0.02) + np.eye(50)[[10] * 6] * 0.002)
    caption = plot_explanation(tmp_path / "a.png", "a.wav", "", flat)
    assert "No moment stands out: all frames weigh nearly the same, at most 1.10 times the mean" in caption


def test_pooling_weights_on_pauses_are_named(tmp_path):
    one = explanation(1)._replace(weights=np.eye(50)[[10]] * 0.94 + 0.0012, speech=np.arange(50) > 20)
    assert "Most of the weight lies on pauses" in plot_explanation(tmp_path / "a.png", "a.wav", "", one)


def test_a_picture_for_a_page_is_narrower_and_its_title_is_the_pages(tmp_path, figure_of):
    moments = list(average_windows(windows([(0.9, 0.1), None])))
    soundfile.write(tmp_path / "a.wav", np.zeros(6 * 16_000), 16_000)
    over_time = (str(tmp_path / "a.wav"), LABELS, moments, list(join_moments(moments)))
    for plot, arguments in (
        (plot_timeline, ("small print", *over_time)),
        (plot_explanation, ("a.wav", "small print", explanation(6))),
    ):
        picture, captions = io.BytesIO(), []

        def draw(*given, plot=plot, captions=captions):
            captions.append(plot(*given, width=5.0, titled=False))

        figure = figure_of(draw, picture, *arguments)
        assert figure.get_figwidth() == 5 and imread(io.BytesIO(picture.getvalue())).shape[1] < 900
        assert captions[0].startswith("a.wav: ") and captions[0].endswith("small print")
        assert not any("a.wav" in text or "small print" in text for text in texts(figure))


def bump(*middles):
    """A curve of 50 frames with peaks at some frames, the first one highest."""
    frames = np.arange(50)
    return sum((3 - rank) * np.exp(-(((frames - middle) / 2) ** 2)) for rank, middle in enumerate(middles)) - 0.5


def shades(figure):
    (axes,) = (axes for axes in figure.axes if axes.get_ylabel() == "angry minus\ncalm (logits)")
    return {
        to_hex(area.get_facecolor()[0])
        for area in axes.collections
        if np.ptp(area.get_paths()[0].vertices[:, 1]) > 0
    }  # fmt: skip


def test_explanation_names_the_strongest_evidence(tmp_path, figure_of):
    one = explanation(1, evidence=True, behind=0.25)._replace(evidence=bump(10, 40))
    figure = figure_of(plot_explanation, tmp_path / "a.png", "a.wav", "by mine", one, 2.0)
    shown = {text.replace("\n", " ") for text in texts(figure)}
    assert "a.wav: angry (70%). Strongest evidence for angry against calm at 2.2 s and 2.8 s" in shown
    (settings,) = (text for text in shown if text.endswith("by mine"))
    assert (
        settings.startswith("Orange speaks for angry, blue for calm")
        and "25% of the weight lies on silence" in settings
    )
    assert shades(figure) == {to_hex(FOR), to_hex(AGAINST)}


def test_evidence_in_pauses_is_grey_and_not_named(tmp_path, figure_of):
    one = explanation(1, evidence=True)._replace(evidence=bump(10, 40), speech=np.arange(50) > 25)
    figure = figure_of(plot_explanation, tmp_path / "a.png", "a.wav", "", one)
    assert any("evidence for angry against calm at 0.8 s" in text.replace("\n", " ") for text in texts(figure))
    assert shades(figure) == {to_hex(FOR), to_hex(AGAINST), to_hex(PAUSE)}


def test_evidence_against_the_label_everywhere_is_said(tmp_path):
    one = explanation(1, evidence=True)._replace(evidence=np.full(50, -1.0))
    caption = plot_explanation(tmp_path / "a.png", "a.wav", "", one)
    assert "No moment of speech speaks for angry against calm" in caption
