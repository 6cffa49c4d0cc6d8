"""Markdown tables, and cells with values and their 95 % intervals."""

from collections.abc import Iterable


def markdown_table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Join cells to a Markdown table."""
    header = list(header)
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))


def with_interval(figures: tuple[float, float, float]) -> str:
    """Format a fraction with its interval (`value, low, high`) in percent."""
    value, low, high = (100 * figure for figure in figures)
    return f"{value:.2f} ({low:.1f} to {high:.1f})"


def with_gain(figures: tuple[float, float, float]) -> str:
    """Format a difference with its interval in points, bold if the interval excludes 0."""
    value, low, high = (100 * figure for figure in figures)
    text = f"{value:+.2f} ({low:+.1f} to {high:+.1f})"
    return f"**{text}**" if low > 0 or high < 0 else text
