"""The confusion matrix's picture: what is written in it, its contrast, and its refusals."""

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread
from matplotlib.text import Text

from whisper_emotion.reporting.plots import plot_confusion_matrix, text_colour


def texts_of(monkeypatch, *arguments):
    """Draws, and returns every non-empty text of the figure."""
    figures = []
    draw = FigureCanvasAgg.print_figure
    monkeypatch.setattr(
        FigureCanvasAgg, "print_figure", lambda self, *a, **k: (figures.append(self.figure), draw(self, *a, **k))[1]
    )
    plot_confusion_matrix(*arguments)
    return [text.get_text() for text in figures[0].findobj(Text) if text.get_text()]


@pytest.mark.parametrize("classes", [2, 7, 12])
def test_every_size_is_drawn_and_grows_with_the_classes(tmp_path, classes):
    path = tmp_path / "matrix.png"
    plot_confusion_matrix(np.eye(classes) * 3, [f"class {index}" for index in range(classes)], path, "title " * 40)
    height, width = imread(path).shape[:2]
    assert min(height, width) > 70 * classes


def test_no_global_figure_is_left(tmp_path):
    from matplotlib import pyplot

    plot_confusion_matrix(np.eye(2), ["a", "b"], tmp_path / "matrix.png", "title")
    assert not pyplot.get_fignums()


def test_cells_hold_counts_and_row_shares(tmp_path, monkeypatch):
    title = "A caption that is longer than the picture is wide, so that it has to be wrapped. UA 90 %."
    path = tmp_path / "matrix.png"
    texts = texts_of(monkeypatch, [[999, 1, 0], [1, 3, 0], [0, 0, 0]], ["anger", "$joy$", "calm"], path, title)
    assert [text for text in texts if "%\n" in text] == [">99%\n999", "<1%\n1", "25%\n1", "75%\n3"]
    assert texts.count("0") == 5
    assert {"anger\n(1,000)", "$joy$\n(4)", "calm\n(0)"} <= set(texts)
    (caption,) = (text for text in texts if text.startswith("A caption"))
    assert caption.replace("\n", " ") == title.replace(" %", "\N{NO-BREAK SPACE}%") and "\n" in caption


def test_text_stands_out_from_every_shade():
    def luminance(colour):
        linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    for shade in matplotlib.colormaps["Blues"](np.linspace(0, 1, 101)):
        background = luminance(shade[:3])
        white = text_colour(shade) == "white"
        contrast = 1.05 / (background + 0.05) if white else (background + 0.05) / 0.05
        assert contrast >= 4.5  # WCAG 2.1, level AA


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[1, 0]], "square"),
        (np.eye(3), "square"),
        ([[1, -1], [0, 1]], "not negative"),
        ([[np.nan, 1], [0, 1]], "finite"),
    ],
)
def test_what_is_no_confusion_matrix_is_refused(tmp_path, matrix, message):
    with pytest.raises(ValueError, match=message):
        plot_confusion_matrix(matrix, ["a", "b"], tmp_path / "matrix.png", "title")
    assert not list(tmp_path.iterdir())
