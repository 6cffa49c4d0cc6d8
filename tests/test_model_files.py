"""The five files that travel with a checkpoint import nothing that a user's machine may lack."""

import ast
from pathlib import Path

import pytest

import whisper_emotion

PACKAGE = Path(whisper_emotion.__file__).parent
MODEL_FILES = sorted(PACKAGE.glob("*_whisper_emotion.py"))
ALLOWED = {"torch", "transformers", "numpy"}
# Of Python's library: of `os` only what REACHING does not name
STANDARD = {"collections", "dataclasses", "functools", "inspect", "math", "os", "typing"}
# By which files are opened, processes and connections started, or text becomes code: of torch and numpy, too
REACHING = {
    "open", "fdopen", "exec", "eval", "compile", "__import__", "import_module", "input", "breakpoint", "globals",
    "load", "save", "savez", "savetxt", "loadtxt", "genfromtxt", "fromfile", "from_file", "tofile", "memmap",
    "dump", "read_text", "read_bytes", "write_text", "write_bytes", "hub", "hf_hub_download", "snapshot_download",
    "download_url_to_file", "load_state_dict_from_url", "cached_file", "urlopen", "urlretrieve", "request",
    "connect", "socket", "system", "popen", "Popen", "run", "spawn", "fork", "cpp_extension", "ops", "classes",
    "library", "load_library", "remove", "unlink", "environ", "getenv", "putenv",
}  # fmt: skip


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
                assert top in ALLOWED | STANDARD, name.name
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                assert node.level == 1 and node.module in siblings, ast.unparse(node)
            else:
                top = node.module.split(".")[0]
                assert top in ALLOWED | STANDARD, node.module


def reaching(tree):
    """What a source's names and attributes reach out by, imported names among them."""
    nodes = list(ast.walk(tree))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    names |= {node.attr for node in nodes if isinstance(node, ast.Attribute)} - {"eval"}  # a module's mode
    names |= {alias.name for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names}
    return names & REACHING


@pytest.mark.parametrize("path", MODEL_FILES, ids=lambda path: path.name)
def test_nothing_is_opened_or_run(path):
    assert not reaching(ast.parse(path.read_text()))


@pytest.mark.parametrize(
    "source",
    ["open('x')", "torch.load(x)", "read = np.fromfile", "from torch import hub", "getattr(x, y).system('z')"],
)
def test_what_reaches_out_is_found(source):
    assert reaching(ast.parse(source))


# Which module may import which: scripts see all, and no module sees one to its left.
LAYERS = [
    ("cli", "console", "benchmarks", "demo", "export", "publishing"),
    (
        "run_record",
        "scoring",
        "reporting",
        "explanation",
        "inference",
        "evaluation",
        "robustness",
        "fairness",
        "card_metadata",
    ),
    ("fitting",),
    ("feature_store", "stored_frames", "head_files"),
    (
        "run_folder",
        "collator",
        "corpora",
        "windows",
        "pieces",
        "audio",
        "distortion",
        "decoders",
        "containers",
        "recordings",
    ),
    ("metrics", "synthesis"),
    tuple(path.stem for path in MODEL_FILES),
    ("options",),
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
