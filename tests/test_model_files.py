"""The five files that travel with a checkpoint import nothing that a user's machine may lack."""

import ast
import sys
from pathlib import Path

import pytest

import whisper_emotion

PACKAGE = Path(whisper_emotion.__file__).parent
MODEL_FILES = sorted(PACKAGE.glob("*_whisper_emotion.py"))
ALLOWED = {"torch", "transformers", "numpy"}


def test_there_are_five():
    assert [path.name.split("_whisper")[0] for path in MODEL_FILES] == [
        "configuration",
        "encoder",
        "feature_extraction",
        "modeling",
        "pooling",
    ]


@pytest.mark.parametrize("path", MODEL_FILES, ids=lambda path: path.name)
def test_imports(path):
    siblings = {other.stem for other in MODEL_FILES}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for name in node.names:
                top = name.name.split(".")[0]
                assert top in ALLOWED or top in sys.stdlib_module_names, name.name
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                assert node.level == 1 and node.module in siblings, ast.unparse(node)
            else:
                top = node.module.split(".")[0]
                assert top in ALLOWED or top in sys.stdlib_module_names, node.module


@pytest.mark.parametrize("path", MODEL_FILES, ids=lambda path: path.name)
def test_nothing_is_opened_or_run(path):
    called = {
        node.func.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
    }  # fmt: skip
    assert not called & {"open", "exec", "eval", "compile", "__import__", "input"}


# Which module may import which: scripts see all, and no module sees one to its left.
LAYERS = [
    ("arguments", "benchmarks", "export", "publishing"),
    ("protocol", "results", "sweeps", "reporting", "explanation", "inference"),
    ("heads", "training", "features", "run_folder", "corpora", "windows", "audio", "recordings", "metrics"),
    tuple(path.stem for path in MODEL_FILES),
    ("errors", "processes", "termination"),
]


def _layer(module):
    return next(index for index, names in enumerate(LAYERS) if module in names)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("whisper_emotion."):
            assert _layer(node.module.split(".")[1]) >= _layer(own), ast.unparse(node)
