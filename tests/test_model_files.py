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


def test_model_files_are_five():
    assert [path.name.split("_whisper")[0] for path in MODEL_FILES] == [
        "configuration",
        "encoder",
        "feature_extraction",
        "modeling",
        "pooling",
    ]


def test_model_files_import_nothing_that_a_machine_may_lack():
    """import-linter checks that they import nothing of ours but each other; it has no list of what is allowed."""
    for path in MODEL_FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported = [name.name for name in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported = [node.module]
            else:
                continue
            assert {name.split(".")[0] for name in imported} <= ALLOWED | STANDARD, ast.unparse(node)


def test_model_files_import_each_other_relatively():
    """A checkpoint's folder holds them beside one another, and no package of ours."""
    siblings = {path.stem for path in MODEL_FILES}
    for path in MODEL_FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1 and node.module in siblings, ast.unparse(node)


def reaching(tree):
    """What a source's names and attributes reach out by, imported names among them."""
    nodes = list(ast.walk(tree))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    names |= {node.attr for node in nodes if isinstance(node, ast.Attribute)} - {"eval"}  # a module's mode
    names |= {alias.name for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names}
    return names & REACHING


def test_model_files_open_and_run_nothing():
    for path in MODEL_FILES:
        assert not reaching(ast.parse(path.read_text())), path


@pytest.mark.parametrize(
    "source",
    ["open('x')", "torch.load(x)", "read = np.fromfile", "from torch import hub", "getattr(x, y).system('z')"],
)
def test_reaching_finds_what_opens_or_runs(source):
    assert reaching(ast.parse(source))
