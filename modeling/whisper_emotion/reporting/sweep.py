"""Tables and pictures of a sweep, in the paper's form, with intervals, a reference row and tested differences."""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

from whisper_emotion.card_metadata import corpus_title
from whisper_emotion.fitting.grid import REFERENCE, read_record
from whisper_emotion.reporting.card import describe_leakage, describe_selection
from whisper_emotion.reporting.markdown import markdown_table, with_gain, with_interval
from whisper_emotion.reporting.plots import Curve, plot_confusion_matrix, plot_curves
from whisper_emotion.reporting.published import published_figures
from whisper_emotion.reporting.sweep_results import SweepResults, System, draw_together
from whisper_emotion.run_folder import write_whole
from whisper_emotion.scoring import interval

PAPER = "paper (all 1,500 frames, chosen on test), WA / UA"
CONTEXT = ("encoder_context", "context_margin", "silence_stride", "mask_padding")  # facts in a picture's caption
NAMES = {REFERENCE: "logistic regression", "qkv": "QKV"}
# Gives each pooling the same style in all pictures
DRAWN = ("mean", "attentive", "qkv", REFERENCE, "statistics", "attentive_statistics")
LAYER_CHOICE = {
    "dev": "fold by fold, on speakers held out of its training (mean over seeds)",
    "last": "the highest; nothing was chosen",
    "test": "on the test folds, as the paper chose it: optimistic",
}
WA, UA = "weighted_accuracy", "unweighted_accuracy"


def write_sweep_report(
    output_dir: Path, sweep: SweepResults, facts: Mapping[str, Any], others: Mapping[str, Path]
) -> None:
    """Write `table.md`, `layers.png` and a confusion matrix for each encoder and pooling.

    Args:
        output_dir: The folder of these files.
        sweep: The results.
        facts: `corpus`, `folds`, `labels`, `speakers_shared` (per fold), and other settings for captions, by name.
        others: Folders of other sweeps of the same clips, by name, to compare with.
    """
    title = f"{corpus_title(facts['corpus'])}, folds: {facts['folds']}"
    runs = f"{len(facts['speakers_shared'])} test folds, {name_seeds(sweep.seeds)}"
    leakage = describe_leakage(facts["corpus"], facts["speakers_shared"])

    def caption(pooling: str | None = None) -> str:
        """State corpus, folds, seeds, selection and shared speakers; the reference always selects on dev."""
        linear = pooling == REFERENCE
        return f"{title}; {runs}; {describe_selection('dev' if linear else sweep.select_on, linear)}. {leakage}"

    blocks = [
        f"# {title}",
        f"Protocol: {caption()} Settings: {_settings(facts)}.",
        'WA is weighted accuracy, UA unweighted accuracy, in percent. "Over folds" is the paper\'s form: mean and '
        'population deviation over the folds, averaged over the seeds. "Pooled" puts all folds\' test clips together '
        "for each seed, then averages over the seeds; its 95 % interval is a bootstrap over test clips and seeds. "
        "Speakers are not resampled: other speakers may differ by more. The logistic regression uses the mean of "
        "each utterance's own frames; its strength and layer are always chosen on held-out speakers.",
        "## Poolings",
        f"Layer chosen {LAYER_CHOICE[sweep.select_on]}. {caption()}",
        _table_of_poolings(sweep, facts),
        "## Which differences hold",
        "Differences of pooled UA in points, with the 95 % interval of the paired bootstrap. A difference holds "
        f"(bold) if the interval excludes 0. With many rows, some hold by chance. {caption()}",
        _table_of_differences(sweep),
    ]
    for systems in sweep.by_layer:
        encoder, pooling, _ = systems[0]
        heading = f"## {encoder}, {_name(pooling)}, by layer"
        blocks += [heading, caption(pooling), _table_of_layers(sweep, systems, facts)]
    for name, path in others.items():
        blocks += _compare(sweep, facts, name, path)
    write_whole(output_dir / "table.md", "\n\n".join(blocks) + "\n")

    frames = _settings({name: facts[name] for name in CONTEXT if name in facts})
    _draw_layers(
        output_dir / "layers.png", sweep, f"{frames}. {caption()} Pooled, with 95 % intervals over clips and seeds."
    )
    summed = " Counts are summed over the seeds." * (len(sweep.seeds) > 1)
    for system in sweep.chosen:
        path = output_dir / f"confusion_{system.encoder}_{system.pooling}.png"
        text = f"{_label(sweep, system)}; {frames}. {caption(system.pooling)}{summed}"
        plot_confusion_matrix(sweep.confusion(system), sweep.labels, path, text)


def _table_of_poolings(sweep: SweepResults, facts: Mapping[str, Any]) -> str:
    """Tabulate every encoder and pooling at its chosen layer."""
    rows = {
        system: {
            "encoder": system.encoder,
            "pooling": _name(system.pooling),
            "layer": _layers(sweep, system),
            "WA over folds": _over_folds(sweep, system, WA),
            "UA over folds": _over_folds(sweep, system, UA),
            "WA pooled": with_interval(sweep.pooled(system, WA)),
            "UA pooled": with_interval(sweep.pooled(system, UA)),
        }
        for system in sweep.chosen
    }
    return _beside_published(rows, facts)


def _table_of_layers(sweep: SweepResults, systems: list[System], facts: Mapping[str, Any]) -> str:
    """Tabulate an encoder and a pooling at each layer, compared with the last layer, the mean and the reference."""
    top = systems[-1]
    others = [
        other for other in ("mean", REFERENCE) if other != top.pooling and top._replace(pooling=other) in sweep.layers
    ]
    rows = {
        system: {
            "layer": str(system.layer),
            "WA over folds": _over_folds(sweep, system, WA),
            "UA over folds": _over_folds(sweep, system, UA),
            "UA pooled": with_interval(sweep.pooled(system, UA)),
            f"UA less layer {top.layer}'s": "–" if system is top else with_gain(sweep.difference(system, top)),
            **{
                f"UA less {_name(other)}'s": with_gain(sweep.difference(system, system._replace(pooling=other)))
                for other in others
            },
        }
        for system in systems
    }
    return _beside_published(rows, facts)


def _beside_published(rows: Mapping[System, dict[str, str]], facts: Mapping[str, Any]) -> str:
    """Make a table of rows, with a column of the paper's results if there are any."""
    published = {system: published_figures(facts, system) for system in rows}
    if any(published.values()):
        for system, row in rows.items():
            row[PAPER] = published[system] or "–"
    return markdown_table(next(iter(rows.values())), (row.values() for row in rows.values()))


def _table_of_differences(sweep: SweepResults) -> str:
    """Compare all pairs of poolings per encoder, all pairs of encoders per pooling, and chosen with last layer."""
    pairs = [
        (one, other)
        for one, other in combinations(reversed(sweep.chosen), 2)
        if one.encoder == other.encoder or one.pooling == other.pooling
    ]
    several = len({system.layer for systems in sweep.by_layer for system in systems}) > 1
    if sweep.select_on != "last" and several:
        pairs += zip(sweep.chosen, (systems[-1] for systems in sweep.by_layer), strict=True)
    rows = []
    for one, other in pairs:
        names, gain = [_label(sweep, one), _label(sweep, other)], with_gain(sweep.difference(one, other))
        if names[0] != names[1]:  # the last layer may be the chosen one on every fold
            rows.append([*names, gain, "yes" if gain.startswith("**") else "no"])
    return markdown_table(["this", "less this", "points of UA", "holds"], rows)


def _compare(sweep: SweepResults, facts: Mapping[str, Any], name: str, path: Path) -> Iterator[str]:
    """Compare the shared systems of two sweeps, paired by clip; yield heading, caption and table."""
    record = read_record(path, "select_on")
    other = SweepResults(path, sweep.labels, record["select_on"])
    shared = [system for system in sweep.layers if system in other.layers]
    (ours, theirs), both = draw_together([sweep, other], shared)
    rows = [
        [
            system.encoder,
            _name(system.pooling),
            "chosen" if system.layer is None else str(system.layer),
            with_interval(interval(ours[:, place])),
            with_interval(interval(theirs[:, place])),
            with_gain(interval(ours[:, place] - theirs[:, place])),
        ]
        for place, system in enumerate(shared)
    ]
    changed = [key for key in facts if key in record and facts[key] != record[key]]
    here, there = (_settings({key: one[key] for key in changed}) or "nothing" for one in (facts, record))
    seeds = "" if sweep.seeds == other.seeds else f" Seeds of both: {', '.join(map(str, both))}."
    yield f"## Less {name}"
    yield (
        f"The same test clips in two sweeps. What differs: here {here}; {describe_selection(sweep.select_on)}; "
        f"in {name} {there}; {describe_selection(other.select_on)}.{seeds}"
    )
    yield markdown_table(["encoder", "pooling", "layer", "UA pooled", f"UA pooled, {name}", "difference"], rows)


def _draw_layers(path: Path, sweep: SweepResults, title: str) -> None:
    panels: dict[str, list[Curve]] = {}
    for systems in sweep.by_layer:
        encoder, pooling, _ = systems[0]
        for heading, figure in (("WA", WA), ("UA", UA)):
            values, low, high = zip(*(sweep.pooled(system, figure) for system in systems), strict=True)
            layers = [system.layer for system in systems]
            curve = Curve(_name(pooling), layers, values, low, high, style=DRAWN.index(pooling))
            panels.setdefault(f"{heading}, {encoder}", []).append(curve)
    plot_curves(panels, path, title)


def name_seeds(seeds: list[int]) -> str:
    """Return `seed 0`, or `seeds 0, 1, 2`."""
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def _settings(facts: Mapping[str, Any]) -> str:
    """Format the facts that are not in a title."""
    said = ("corpus", "folds", "speakers_shared")
    return "; ".join(f"{name} {_text(value)}" for name, value in facts.items() if name not in said)


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _layers(sweep: SweepResults, system: System) -> str:
    """Format a system's layers over the folds, the commonest first: `3 (8 folds), 4 (2)`."""
    counts = Counter(sweep.layers[system])
    first, *rest = sorted(counts, key=lambda layer: (-counts[layer], layer))
    if not rest:
        return str(first)
    folds = f"{first} ({counts[first]} fold{'s' * (counts[first] > 1)})"
    return ", ".join([folds, *(f"{layer} ({counts[layer]})" for layer in rest)])


def _name(pooling: str) -> str:
    return NAMES.get(pooling, pooling.replace("_", " "))


def _label(sweep: SweepResults, system: System) -> str:
    return f"{system.encoder}, {_name(system.pooling)}, layer {_layers(sweep, system)}"


def _over_folds(sweep: SweepResults, system: System, figure: str) -> str:
    mean, deviation = sweep.over_folds(system, figure)
    return f"{100 * mean:.2f} ± {100 * deviation:.2f}"
