"""Faults at random moments: kill -9, SIGTERM and a full disk, and whether a restart gives the undisturbed results.

    make faults                                  # 50 moments, a generated corpus, a tiny encoder of random weights
    python tests/faults.py --moments 10 --jobs extraction,sweep --kinds kill --corpus emodb --corpus_dir EMODB \
        --encoder ENCODER --layers 3 --folds speakers:5 --folder /tmp/faults

Each moment: a job's command starts in a process of its own; between its first write and its end it is disturbed; what
lies there is looked at for half-written files; the same command is given again; and everything that it leaves is
compared with what an undisturbed run left. A disk is full because a file of nothing fills it: all runs write to a
tmpfs of their own where one can be mounted (`unshare`, Linux), and elsewhere a limit on the size of files stands in
for it. Exits with 1 if anything is lost, doubled, half written, left over or different.
"""

import argparse
import io
import json
import multiprocessing
import os
import random
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from PIL import Image
from safetensors import safe_open

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg", "TQDM_DISABLE": "1"}
REPOSITORY = Path(__file__).resolve().parents[1]
KINDS = ("kill", "term", "full")
BALLAST = "ballast"  # fills the disk
NO_MORE = 2_000  # bytes of a file, where a limit stands in for a full disk: what a command prints has room
INSIDE = "WHISPER_EMOTION_FAULTS_TMPFS"  # set in the process whose work folder is a tmpfs
# A run's folders, and what is in them while it is at work only.
WORK = ("unfinished", "unfinished.part", "results")
LONGEST = 900.0  # seconds that a command may take


class Job(NamedTuple):
    """A command, and the file that marks the end of the time in which it is disturbed; its own end if none does."""

    script: str
    options: list[str]
    until: str | None = None


def jobs(
    corpus: list[str], model: Path, recordings: Path, layers: str = "1,3", workers: int = 1, epochs: int = 8
) -> dict[str, Job]:
    """What is disturbed; all paths that are written to are relative.

    Args:
        corpus: Options that name the corpus, its folds, the encoder and its context.
        model: A trained folder.
        recordings: A folder of recordings.
        layers: The sweep's.
        workers: The sweep's.
        epochs: Of a head.
    """
    common = [*corpus, "--store_dir", "store", "--output_dir", "run", "--use_cpu", "true", "--disable_tqdm", "true"]
    grid = [*common, "--layers", layers, "--seeds", "0"]
    layer = ["--encoder_layer", layers.split(",")[0]]
    head = [*common, *layer, "--num_train_epochs", str(epochs), "--pooling", "qkv"]
    return {
        "extraction": Job(
            "sweep.py",
            [*grid, "--poolings", "mean", "--select_on", "last", "--num_train_epochs", "1", "--num_workers", "1"],
            until="run/results.csv",
        ),
        "train": Job("train.py", [*head, "--test_fold", "1"]),
        "fine_tuning": Job(
            "train.py",
            [*common, *layer, "--num_train_epochs", "3", "--test_fold", "1", "--freeze_encoder", "false"],
        ),
        "cross_validate": Job("cross_validate.py", [*head, "--seeds", "0,1"]),
        "sweep": Job(
            "sweep.py",
            [*grid, "--poolings", "mean,qkv", "--num_train_epochs", str(epochs // 2), "--num_workers", str(workers)],
        ),
        "predict": Job(
            "predict.py",
            ["--model", str(model), str(recordings), "--batch_size", "1", "--output", "labels.csv", "--segments",
             "segments.json"],
        ),
        "export": Job("export_onnx.py", ["--model", str(model), "--output", "model.onnx"]),
    }  # fmt: skip


# --- one run ---------------------------------------------------------------------------------------------------------


class Fault(NamedTuple):
    """One of `KINDS`, after a share of the time, or before a process opens, renames or removes its n-th file."""

    kind: str
    share: float = 0.0
    operation: int | None = None


def run_job(job: Job, folder: str, fault: Fault | None) -> None:
    """What the process of a command does: it runs the script in its folder, and prints to a file elsewhere."""
    log = os.open(_log(folder), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(folder)
    sys.argv = [str(REPOSITORY / "scripts" / job.script), *job.options]
    if fault is not None and fault.operation is not None:
        sys.addaudithook(_Hook(fault, folder))
    runpy.run_path(sys.argv[0], run_name="__main__")


class _Hook:
    """Counts what a process does to the files in its folder, and disturbs it at its number."""

    def __init__(self, fault: Fault, folder: str):
        self.fault, self.folder, self.seen = fault, folder, 0

    def __call__(self, event: str, arguments: tuple) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if not (writes or event in ("os.rename", "os.remove")) or isinstance(arguments[0], int):
            return
        if not os.path.abspath(os.fsdecode(arguments[0])).startswith(self.folder):
            return
        self.seen += 1
        if self.seen != self.fault.operation:
            return
        if self.fault.kind == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (NO_MORE, resource.RLIM_INFINITY))
        else:
            os.kill(os.getpid(), signal.SIGKILL if self.fault.kind == "kill" else signal.SIGTERM)


def start(job: Job, folder: Path, fault: Fault | None = None) -> multiprocessing.Process:
    """Start a command in a fresh process, forked from one that has the libraries in its memory and nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["whisper_emotion.cli", "whisper_emotion.sweeps", "whisper_emotion.inference",
                                    "whisper_emotion.reporting", "whisper_emotion.export"])  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    process = context.Process(target=run_job, args=(job, str(folder), fault))
    with mock.patch.dict(os.environ, ENVIRONMENT):
        process.start()
    return process


def finish(process: multiprocessing.Process) -> int:
    """Wait for a command; returns its status."""
    process.join(LONGEST)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"not done within {LONGEST:g} s")
    return process.exitcode


def said(folder: Path) -> list[str]:
    """The lines that a command printed."""
    return [line for line in _log(folder).read_text(errors="replace").splitlines() if line.strip()]


def _log(folder: str | Path) -> Path:
    """Where a command prints to: not on the disk that is filled."""
    return Path(tempfile.gettempdir(), "whisper-emotion" + str(folder).replace("/", "_") + ".log")


# --- what is looked at -----------------------------------------------------------------------------------------------


def check_whole(folder: Path) -> None:
    """No file that has its final name is half written; of checkpoints, one without a state does not count."""
    for path in sorted(folder.rglob("*")):
        checkpoint = next((parent for parent in path.parents if parent.name.startswith("checkpoint-")), None)
        if path.is_dir() or path.suffix == ".part" or "results" in path.parent.parts[-2:]:
            continue  # `results` are put together under a work folder that nobody reads
        if checkpoint is not None and not _is_json(checkpoint / "trainer_state.json"):
            continue
        try:
            _read_whole(path)
        except Exception as error:
            raise AssertionError(f"{path}: half written ({error})") from error


def _is_json(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_text()), dict)
    except (OSError, ValueError):
        return False


def _read_whole(path: Path) -> None:
    if path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".csv":
        text = path.read_text()
        assert text.endswith("\n") or not text, "the last row has no end"
        assert len({line.count(",") for line in text.splitlines()}) <= 1, "rows of several lengths"
    elif path.suffix == ".png":
        with Image.open(path) as picture:
            picture.load()
    elif path.suffix == ".safetensors":
        with safe_open(path, "np") as weights:
            for name in weights.keys():  # noqa: SIM118
                weights.get_tensor(name)
    elif path.suffix == ".npz":
        with np.load(path) as arrays:
            assert set(arrays) == {"logits", "row"}
    elif path.suffix == ".onnx":
        import onnx

        onnx.checker.check_model(onnx.load(path))
    elif path.suffix == ".py":
        compile(path.read_text(), path, "exec")
    elif path.suffix == ".md":
        assert path.read_text().count("|") > 10, "its tables are missing"


def contents(folder: Path) -> dict[str, Any]:
    """All that a finished run has left, by path; times are left out, and work that was not cleared away is named."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() or path.name in WORK:
            found[path.relative_to(folder).as_posix()] = _content(path) if path.is_file() else "left over"
    return found


def _content(path: Path) -> Any:
    if path.name in ("scores.json", "sweep.json"):
        values = json.loads(path.read_text())
        return {name: value for name, value in values.items() if name not in ("seconds", "training_seconds")}
    if path.name == "README.md":
        return [line for line in path.read_text().splitlines() if not line.startswith("| speed |")]
    if path.suffix == ".npz":
        with np.load(path) as cell:
            row = json.loads(str(cell["row"]))
            return cell["logits"].tobytes(), {name: value for name, value in row.items() if name != "seconds"}
    return path.read_bytes()


def check_message(kind: str, status: int, lines: list[str], folder: Path) -> None:
    """The command ended as it should after a fault, and said so in one line."""
    expected = {"kill": -signal.SIGKILL, "term": 143, "full": 2}[kind]
    told = "\n".join(lines)
    assert status == expected, f"status {status}, not {expected}: {told[-3000:]}"
    assert "Traceback" not in told, told[-3000:]
    if kind == "term":
        assert [line for line in lines if ": terminated; " in line] == lines[-1:], told
    if kind == "full":
        assert ": error: " in lines[-1] and "room" in lines[-1], told
        named = ("run", "store", "labels.csv", "segments.json", ".: ", str(folder))
        assert any(name in lines[-1] for name in named), told


def check_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Nothing is lost, left over or different."""
    assert found.keys() == expected.keys(), f"other files: {sorted(found.keys() ^ expected.keys())}"
    different = [name for name, content in found.items() if content != expected[name]]
    assert not different, f"other contents: {different}"


# --- random moments --------------------------------------------------------------------------------------------------


class Reference(NamedTuple):
    """What an undisturbed run left, and the seconds from its first write to its end."""

    contents: dict[str, Any]
    seconds: float


def run_undisturbed(job: Job, folder: Path) -> Reference:
    """Run a job, and measure the time in which it may be disturbed."""
    process = start(job, folder)
    _await_write(process, folder)
    started = time.monotonic()
    while process.is_alive() and not (job.until and (folder / job.until).exists()):
        time.sleep(0.002)
    seconds = time.monotonic() - started
    status = finish(process)
    assert status == 0, "\n".join(said(folder))
    check_whole(folder)
    _log(folder).unlink()
    return Reference(contents(folder), seconds)


def _await_write(process: multiprocessing.Process, folder: Path) -> None:
    """Wait for a command's first file."""
    while process.is_alive() and not any(path.is_file() for path in folder.rglob("*")):
        time.sleep(0.002)


def disturb(job: Job, fault: Fault, folder: Path, reference: Reference) -> str:
    """Disturb a job, run it again, and compare; returns what became of it.

    Args:
        job: Which one.
        fault: How, and when.
        folder: Where it runs; removed in the end.
        reference: What must come of it.
    """
    process = start(job, folder, fault)
    if fault.operation is None:
        _await_write(process, folder)
        time.sleep(fault.share * reference.seconds)
        with _inflict(fault.kind, process, folder):
            status = finish(process)
    else:
        status = finish(process)
    check_whole(folder)
    outcome = "done before" if status == 0 else "disturbed"
    if status:
        check_message(fault.kind, status, said(folder), folder)
    else:
        check_same(contents(folder), reference.contents)
    status = finish(start(job, folder))
    assert status == 0, f"the restart fails with {status}: " + "\n".join(said(folder))
    check_whole(folder)
    check_same(contents(folder), reference.contents)
    shutil.rmtree(folder)
    _log(folder).unlink()
    return outcome


@contextmanager
def _inflict(kind: str, process: multiprocessing.Process, folder: Path) -> Iterator[None]:
    """Disturb a process; a disk is full within, and has room again after."""
    ballast = folder.parent / BALLAST
    if kind == "kill":
        process.kill()
    elif kind == "term":
        process.terminate()
    elif os.environ.get(INSIDE):
        with open(ballast, "wb", 0) as file, io.BytesIO(bytes(2**20)) as block:
            for size in (2**20, 4096):  # in large pieces, then in small ones
                try:
                    while file.write(block.getbuffer()[:size]):
                        pass
                except OSError:
                    pass
    elif process.is_alive():
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (NO_MORE, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        ballast.unlink(missing_ok=True)


def inside_tmpfs(folder: Path, size: str) -> bool:
    """Go on in a mount namespace where the folder is a tmpfs; False where there can be none."""
    if os.environ.get(INSIDE) or not shutil.which("unshare"):
        return bool(os.environ.get(INSIDE))
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = 'mount -t tmpfs -o "size=$1" tmpfs "$2" && shift 2 && exec "$@"'
    command = [*unshare, mount, "sh", size, str(folder)]
    if subprocess.run([*command, "true"], capture_output=True).returncode:
        return False
    os.environ[INSIDE] = str(folder)
    os.execvp(command[0], [*command, sys.executable, *sys.argv])


def main() -> int:
    """Draw the moments, and count what became of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", help="comma-separated; all if none is named")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--folder", type=Path, help="where the runs go; a temporary folder if none is named")
    parser.add_argument("--size", default="96m", help="of the disk that is filled")
    parser.add_argument("--corpus", default="synthetic")
    parser.add_argument("--corpus_dir", type=Path)
    parser.add_argument("--encoder", type=Path)
    parser.add_argument("--folds", default="speakers:2")
    parser.add_argument("--layers", default="1,3")
    parser.add_argument("--num_workers", type=int, default=1, help="of the sweep")
    arguments = parser.parse_args()
    root = arguments.folder or Path(os.environ.get(INSIDE) or tempfile.mkdtemp(prefix="whisper-emotion-faults-"))
    root.mkdir(parents=True, exist_ok=True)
    disk = "a full tmpfs" if inside_tmpfs(root.resolve(), arguments.size) else "a limit on the size of files"
    failed = _main(arguments, root.resolve(), disk)
    if arguments.folder is None and not failed:
        shutil.rmtree(root, ignore_errors=True)
    return failed


def _main(arguments: argparse.Namespace, root: Path, disk: str) -> int:
    sys.path.insert(0, str(REPOSITORY / "tests"))
    from conftest import save_encoder, save_model

    from whisper_emotion.corpora import load_corpus

    encoder = arguments.encoder or save_encoder(root / "encoder")
    corpus_dir = arguments.corpus_dir or root / "corpus"
    load_corpus(arguments.corpus, corpus_dir, **({"speakers": 4, "utterances": 6} if not arguments.corpus_dir else {}))
    model = save_model(encoder, root / "model", encoder_context="utterance", pooling="qkv", encoder_layer=1)
    corpus = ["--corpus", arguments.corpus, "--corpus_dir", str(corpus_dir.resolve()), "--folds", arguments.folds,
              "--encoder", str(encoder.resolve()), "--encoder_context", "utterance"]  # fmt: skip
    known = jobs(corpus, model, corpus_dir.resolve(), arguments.layers, arguments.num_workers)
    chosen = arguments.jobs.split(",") if arguments.jobs else list(known)

    started = time.monotonic()
    references = {}
    for name in chosen:
        references[name] = run_undisturbed(known[name], root / "reference" / name)
        print(
            f"{name}: {references[name].seconds:.1f} s undisturbed, {len(references[name].contents)} files", flush=True
        )
    draw, counts, failures = random.Random(arguments.seed), Counter(), 0
    kinds = arguments.kinds.split(",")
    for number in range(arguments.moments):
        name, kind, share = chosen[number % len(chosen)], kinds[number // len(chosen) % len(kinds)], draw.random()
        folder = root / f"moment{number:03d}" / name
        where = f"moment {number + 1}: {kind} of {name} at {share:.0%}"
        try:
            outcome = disturb(known[name], Fault(kind, share), folder, references[name])
            print(f"{where}: {outcome}, the same results after a restart", flush=True)
            counts[f"{kind}, {outcome}"] += 1
        except AssertionError as error:
            failures += 1
            print(f"{where}: FAILED: {error} ({folder})", flush=True)
    counted = "; ".join(f"{count} {what}" for what, count in sorted(counts.items()))
    print(
        f"{arguments.moments} moments ({counted}), {failures} failed, disk: {disk}, {time.monotonic() - started:.0f} s"
    )
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
