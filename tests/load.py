"""Many clients at once, and very many clips: whether all are answered rightly, how soon, and what memory it takes.

    python tests/load.py                         # 64 clients for 5 minutes at the page and at a stream; 100,000 clips
    python tests/load.py --parts clips --clips 5000

`page`: clients of `demo.py` on loopback, each of which uploads a recording, waits for the answer, and begins again.
`stream`: as many threads that share one `EmotionClassifier` and label recordings window by window. `clips`: files of
0.05 to 0.3 s, one behind another, through the same. Every probability is compared with that of the clip alone. The
model has random weights, and the recordings are generated. Exits with 1 if something failed, differed by more than
1e-4, or if the last third of the time took more memory than the rest by over 5 %.
"""

import argparse
import itertools
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import gradio_client
import numpy as np
import soundfile
from conftest import save_encoder, save_model

from whisper_emotion.audio import SAMPLING_RATE, read_audio
from whisper_emotion.corpora import load_corpus
from whisper_emotion.inference import EmotionClassifier

REPOSITORY = Path(__file__).resolve().parents[1]
PARTS = ("page", "stream", "clips")
TOLERANCE, GROWTH = 1e-4, 1.05
WINDOW, HOP = 1.0, 0.5


class Watch:
    """A process's resident memory, a second at a time."""

    def __init__(self, process: int | str):
        self.status, self.megabytes, self._over = Path(f"/proc/{process}/status"), [], threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self.megabytes or not self._over.wait(1):
            found = re.search(r"VmRSS:\s+(\d+)", self.status.read_text())
            self.megabytes.append(int(found[1]) / 1024 if found else 0.0)

    def end(self) -> tuple[float, float]:
        """Stop; returns the most megabytes before the last third of the time, and in it."""
        self._over.set()
        self._thread.join()
        third = max(1, len(self.megabytes) // 3)
        return max(self.megabytes[:-third], default=0.0), max(self.megabytes[-third:])


class Tally:
    """What clients were answered."""

    def __init__(self):
        self.seconds: dict[int, list[float]] = {}
        self.failures: Counter[str] = Counter()
        self.difference = 0.0

    def run(self, clients: int, minutes: float, ask: Callable[[int], float]) -> None:
        """Let clients ask again and again, all at a time; `ask` takes a client and returns how far off it was."""
        end = time.monotonic() + 60 * minutes

        def work(client: int) -> None:
            own = self.seconds[client] = []
            while time.monotonic() < end:
                started = time.monotonic()
                try:
                    self.difference = max(self.difference, ask(client))
                    own.append(time.monotonic() - started)
                except Exception as error:  # is what is counted here
                    self.failures[f"{type(error).__name__}: {error}"[:200]] += 1

        threads = [threading.Thread(target=work, args=(client,)) for client in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def report(what: str, tally: Tally, memory: tuple[float, float]) -> bool:
    """Print what came of a part; returns whether all was well."""
    before, after = memory
    seconds = np.concatenate([np.array(own) for own in tally.seconds.values()])
    counts = [len(own) for own in tally.seconds.values()]
    latency = np.percentile(seconds, [50, 95, 100]) if len(seconds) else [np.nan] * 3
    print(
        f"{what}: {len(tally.seconds)} clients, {len(seconds)} answers, {min(counts)} to {max(counts)} each; "
        f"median {latency[0]:.2f} s, 95 % in {latency[1]:.2f} s, all in {latency[2]:.2f} s; "
        f"{sum(tally.failures.values())} failures, difference at most {tally.difference:.1e}; "
        f"at most {before:.0f} MiB, in the last third {after:.0f} MiB",
        flush=True,
    )
    for failure, count in tally.failures.most_common(5):
        print(f"  {count} times {failure}")
    return not tally.failures and len(seconds) > 0 and tally.difference <= TOLERANCE and after <= GROWTH * before


def furthest(found: dict[str, float], expected: dict[str, float]) -> float:
    """The largest difference of a probability."""
    return max(abs(found[label] - value) for label, value in expected.items())


def load_page(model: Path, files: list[Path], clients: int, minutes: float) -> bool:
    """Clients of the page."""
    expected = EmotionClassifier(model)(files)
    command = [sys.executable, str(REPOSITORY / "scripts" / "demo.py"), "--model", str(model)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().split()[0]
        with tempfile.TemporaryDirectory() as folder:
            people = [
                gradio_client.Client(address, verbose=False, download_files=folder, analytics_enabled=False)
                for _ in range(clients)
            ]
            draw, tally, watch = random.Random(0), Tally(), Watch(server.pid)

            def ask(client: int) -> float:
                number = draw.randrange(len(files))
                recording = gradio_client.handle_file(str(files[number]))
                said, bars, *_ = people[client].predict(recording, api_name="/label")
                if "value" not in bars or bars["value"] is None:
                    raise RuntimeError(said)
                found = {one["label"]: one["confidence"] for one in bars["value"]["confidences"]}
                return furthest(found, expected[number])

            tally.run(clients, minutes, ask)
            return report("page", tally, watch.end())
    finally:
        server.terminate()
        server.wait()


def load_stream(model: Path, files: list[Path], clients: int, minutes: float) -> bool:
    """Threads that label recordings window by window with one model."""
    classifier = EmotionClassifier(model)
    expected = [[window.probabilities for window in classifier.predict([file], WINDOW, HOP)] for file in files]
    draw, tally, watch = random.Random(0), Tally(), Watch("self")

    def ask(client: int) -> float:
        number = draw.randrange(len(files))
        found = [window.probabilities for window in classifier.predict([files[number]], WINDOW, HOP)]
        return max(furthest(one, other) for one, other in zip(found, expected[number], strict=True) if other)

    tally.run(clients, minutes, ask)
    return report("stream", tally, watch.end())


def load_clips(model: Path, files: list[Path], folder: Path, clips: int) -> bool:
    """Very many clips, one behind another."""
    short, draw = [], random.Random(0)
    for number, file in enumerate(4 * files):
        short.append(folder / f"short{number}.wav")
        start, end = SAMPLING_RATE // 2, SAMPLING_RATE // 2 + round(draw.uniform(0.05, 0.3) * SAMPLING_RATE)
        soundfile.write(short[-1], read_audio(file)[start:end], SAMPLING_RATE)
    classifier = EmotionClassifier(model)
    expected = classifier(short)
    watch, difference, count, started = Watch("self"), 0.0, 0, time.monotonic()
    answers = classifier.predict(itertools.islice(itertools.cycle(short), clips), WINDOW, HOP)
    for answer, alone in zip(answers, itertools.cycle(expected), strict=False):
        difference, count = max(difference, furthest(answer.probabilities or {}, alone)), count + 1
    before, after = watch.end()
    print(
        f"clips: {count} of {clips} in {time.monotonic() - started:.0f} s, difference at most {difference:.1e}; "
        f"at most {before:.0f} MiB, in the last third {after:.0f} MiB",
        flush=True,
    )
    return count == clips and difference <= TOLERANCE and after <= GROWTH * before


def main() -> int:
    """Run the parts, one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated: page, stream, clips")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--minutes", type=float, default=5.0, help="of the page and of the stream, each")
    parser.add_argument("--clips", type=int, default=100_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "encoder").mkdir()
        save_encoder(folder / "encoder")
        model = save_model(folder / "encoder", folder / "model")
        corpus = load_corpus("synthetic", folder / "corpus", speakers=4, utterances=4)
        files = [Path(audio["path"]) for audio in corpus["audio"]]
        parts = {
            "page": lambda: load_page(model, files, arguments.clients, arguments.minutes),
            "stream": lambda: load_stream(model, files, arguments.clients, arguments.minutes),
            "clips": lambda: load_clips(model, files, folder, arguments.clips),
        }
        return int(not all([parts[name]() for name in arguments.parts.split(",")]))


if __name__ == "__main__":
    sys.exit(main())
