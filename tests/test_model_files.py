"""The files that travel with a checkpoint import and do nothing unexpected; the package imports one way."""

import ast
from pathlib import Path

import pytest

import whisper_emotion

PACKAGE = Path(whisper_emotion.__file__).parent
MODEL_FILES = sorted(PACKAGE.glob("*_whisper_emotion.py"))
ALLOWED = {"torch", "transformers", "numpy"}
STANDARD = {"collections", "dataclasses", "functools", "inspect", "math", "os", "typing"}
FORK = "os.register_at_fork"  # the only use of `os`
# Names that open files, start processes or connections, or turn text into code, also in torch and numpy.
REACHING = {
    "open", "fdopen", "exec", "eval", "compile", "__import__", "import_module", "input", "breakpoint", "globals",
    "load", "save", "savez", "savetxt", "loadtxt", "genfromtxt", "fromfile", "from_file", "tofile", "memmap",
    "dump", "read_text", "read_bytes", "write_text", "write_bytes", "hub", "hf_hub_download", "snapshot_download",
    "download_url_to_file", "load_state_dict_from_url", "cached_file", "urlopen", "urlretrieve", "request",
    "connect", "socket", "system", "popen", "Popen", "run", "spawn", "fork", "environ", "remove", "unlink", "rename",
    "cpp_extension", "ops", "classes", "library", "load_library",
}  # fmt: skip


def test_model_files_are_these_five():
    assert [path.name.split("_whisper")[0] for path in MODEL_FILES] == [
        "configuration",
        "encoder",
        "feature_extraction",
        "modeling",
        "pooling",
    ]


@pytest.mark.parametrize("path", MODEL_FILES, ids=lambda path: path.name)
def test_model_file_imports_torch_transformers_numpy_and_siblings_alone(path):
    siblings = {other.stem for other in MODEL_FILES}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert {name.name.split(".")[0] for name in node.names} <= ALLOWED | STANDARD, ast.unparse(node)
        elif isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1 and node.module in siblings, ast.unparse(node)
        elif isinstance(node, ast.ImportFrom):
            assert node.module.split(".")[0] in (ALLOWED | STANDARD) - {"os"}, node.module


def test_modeling_file_imports_every_sibling():
    """transformers before 5.1 copies only the files that this one imports itself."""
    tree = ast.parse((PACKAGE / "modeling_whisper_emotion.py").read_text())
    imported = {node.module for node in tree.body if isinstance(node, ast.ImportFrom) and node.level}
    assert imported == {path.stem for path in MODEL_FILES} - {"modeling_whisper_emotion"}


@pytest.mark.parametrize("path", MODEL_FILES, ids=lambda path: path.name)
def test_model_file_has_at_most_350_lines(path):
    assert len(path.read_text().splitlines()) <= 350


def reaching(tree):
    """Find the names in a source by which it could reach out."""
    nodes = list(ast.walk(tree))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    names |= {node.attr for node in nodes if isinstance(node, ast.Attribute)} - {"eval"}  # a module's mode
    names |= {alias.name for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names}
    other_use_of_os = {
        ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "os"
    }
    return names & REACHING | other_use_of_os - {FORK}


@pytest.mark.parametrize("path", MODEL_FILES, ids=lambda path: path.name)
def test_model_file_opens_and_runs_nothing(path):
    assert not reaching(ast.parse(path.read_text()))


@pytest.mark.parametrize(
    "source",
    ["open('x')", "torch.load(x)", "read = np.fromfile", "from torch import hub", "x.system('z')", "os.chmod(x, 0)"],
)
def test_source_that_reaches_out_is_found(source):
    assert reaching(ast.parse(source))


# A module imports from its own row and the rows below it.
LAYERS = [
    ("cli", "benchmarks", "demo", "export", "publishing"),
    ("reporting", "run_record", "scoring", "explanation", "inference", "pieces"),
    ("fitting", "feature_store", "run_folder", "corpora", "metrics"),
    ("windows", "audio", "decoders", "containers", "recordings"),
    tuple(path.stem for path in MODEL_FILES),
    ("registration", "card_metadata", "options", "errors", "processes", "termination"),
]
ROWS = {module: row for row, modules in enumerate(LAYERS) for module in modules}


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_imports_point_one_way(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert own in ROWS, f"{own} has no row in LAYERS"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("whisper_emotion."):
            assert ROWS[node.module.split(".")[1]] >= ROWS[own], ast.unparse(node)
