"""Label recordings with a trained model: files of any length and format, and arrays.

Calling an `EmotionClassifier` labels whole clips; `predict` also cuts long files into windows (`windows.py`).
"""

import logging
import math
import numbers
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import cast

import numpy as np
import torch
from tqdm.auto import tqdm

from whisper_emotion.audio import SAMPLING_RATE, AudioSource, read_audio
from whisper_emotion.errors import UserError, printable
from whisper_emotion.head_files import find_model, is_head, load_head, load_whole
from whisper_emotion.pieces import Piece, pool_pieces, read_pieces
from whisper_emotion.windows import LONGEST_SECONDS, SILENCE_DBFS, Emotion, Prediction, window_samples

logger = logging.getLogger(__name__)

BATCH_SIZE = 16
PRIOR_RECORDINGS = 5  # weight of the training population's mean, in recordings
ONE_SIDED = 0.7  # share of recordings with the same label that suggests a shared mood
ENOUGH_TO_JUDGE = 10  # recordings
MOST_MEL_FRAMES = 8192  # in a batch on a CPU, padding included: more takes memory but saves no time
PRIOR_ROUNDING = 0.01  # allowed deviation of rounded shares from a sum of 1
WHOLE = "; `predict` labels all of it, in windows"


class EmotionClassifier:
    """Label recordings with a trained model.

    Args:
        model: A trained folder, a Hub name, or one of the shipped heads `general` (default) and `permissive`. The
            first use downloads a shipped head's encoder from the Hub.
        encoder: Folder or Hub name of the encoder, for a shipped head or another head without its encoder.
        device: `auto` (the accelerator that torch finds, otherwise the CPU), or torch's name of a device.
        priors: Expected shares of labels, such as `{"neutral": 0.6}`. The other labels share the rest equally. None
            expects all labels equally often, as in balanced training.
        encoder_dtype: Precision of the encoder; `torch.bfloat16` is faster on devices that support it.

    Raises:
        UserError: The model or its encoder cannot be loaded, the model is not a classifier, the device does not exist,
            or `priors` are not shares of the model's labels.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        encoder: str | os.PathLike[str] | None = None,
        *,
        device: str = "auto",
        priors: Mapping[str, float] | None = None,
        encoder_dtype: torch.dtype = torch.float32,
    ):
        place, model = choose_device(device), find_model(model)
        if is_head(model):
            loaded, self.extractor = load_head(model, encoder)
        else:
            loaded, self.extractor = load_whole(model)
            if encoder is not None:
                raise UserError(f"encoder {encoder}: not needed, because {model} contains its encoder; leave it out")
        kind = loaded.config.problem_type or ("regression" if loaded.config.num_labels == 1 else None)
        if kind not in (None, "single_label_classification"):
            raise UserError(f"{model}: is a model for {kind}, expected a single-label classifier")
        self.model = loaded.eval().to(place)
        self.model.encoder.to(encoder_dtype)
        self._weights = None if priors is None else torch.tensor(label_weights(priors, self.labels), device=place)
        self._domain_sum: torch.Tensor | None = None  # of the domain recordings' mean frames
        self._domain_labels: Counter[int] = Counter()  # unadapted labels of these recordings

    @property
    def labels(self) -> list[str]:
        """Return the model's labels in the order of its outputs."""
        return list(self.model.config.id2label.values())

    def __call__(self, recordings: AudioSource | Sequence[AudioSource], batch_size: int = BATCH_SIZE) -> list[Emotion]:
        """Label recordings of any format, rate and number of channels.

        Args:
            recordings: One recording or a list of them, each as in `read_audio`: a path, `(array, sampling_rate)` or
                a row of an `Audio` column. Only the first 30 s of each are used; `predict` takes longer files.
            batch_size: Recordings per batch; does not influence the probabilities.

        Returns:
            A list of one `Emotion` per recording, also for a single recording: a dict from label to probability, the
            most probable first.

        Raises:
            UserError: A recording cannot be read, or lasts less than 25 ms.
        """
        sources, results = _as_list(recordings), []
        for start in range(0, len(sources), batch_size):
            clips = [_beginning(source, WHOLE) for source in sources[start : start + batch_size]]
            for clip, (named, novelty) in zip(clips, self._classify(clips), strict=True):
                heard = Prediction("", 0.0, len(clip) / SAMPLING_RATE, 0.0, named, self._sure_probability, novelty)
                results.append(Emotion(heard))
        return results

    @torch.no_grad()
    def adapt(
        self,
        recordings: AudioSource | Sequence[AudioSource] | Iterator[AudioSource],
        prior_recordings: float = PRIOR_RECORDINGS,
        *,
        forget: bool = True,
    ) -> int:
        """Adapt to a domain: a speaker, microphone or call that all later recordings share.

        The mean of a few recordings reflects their moods more than their domain. It is therefore averaged with the
        training speakers' mean, which counts as `prior_recordings`: a few recordings change the model little.

        A mood that all recordings share is removed as if it were the voice. A warning is logged if most of ten or
        more recordings have the same unadapted label.

        Args:
            recordings: Recordings of the domain in varied moods, without labels. Up to 30 s of each are used. An
                iterator's recordings are in memory one at a time.
            prior_recordings: Weight of the training population's mean, in recordings.
            forget: Drop the recordings of earlier calls first; without recordings, only drop them. False adds to the
                earlier recordings, to adapt to a stream as it arrives.

        Returns:
            The number of recordings that the model is adapted to.

        Raises:
            UserError: A recording cannot be read, or the model does not store its training speakers' mean.
        """
        sources = recordings if isinstance(recordings, Iterator) else _as_list(recordings)
        head, population = self.model.head, self.model.head.adaptation.population_mean
        total, chosen = (None, Counter[int]()) if forget else (self._domain_sum, self._domain_labels.copy())
        before = chosen.total()
        for source in sources:
            if not population.any():
                raise UserError("adapt: this model has no mean of its training speakers, so it cannot adapt")
            encoded = self.model.encoder(**self._extract([_beginning(source)]))
            frames = self.model._to_head(encoded.frames)
            mean = head.mean_frames(frames, encoded.mask)[0]
            total = mean if total is None else total + mean
            chosen[int(head(frames, encoded.mask, population[None]).logits.argmax())] += 1  # unadapted
        self._domain_sum, self._domain_labels = total, chosen
        if total is None:
            self.model.adapt(None)
            return 0
        self.model.adapt((prior_recordings * population + total) / (prior_recordings + chosen.total()))
        ((most, count),) = chosen.most_common(1)
        if chosen.total() > before and chosen.total() >= ENOUGH_TO_JUDGE and count >= ONE_SIDED * chosen.total():
            logger.warning(
                "adapt: %d of %d recordings are labelled %s. If they share that mood, adaptation removes it: give "
                "recordings in varied moods, or do not adapt",
                *(count, chosen.total(), self.labels[most]),
            )
        return chosen.total()

    def predict(
        self,
        files: Iterable[str | os.PathLike[str]],
        window: float | None = None,
        hop: float | None = None,
        silence_dbfs: float = SILENCE_DBFS,
        batch_size: int = BATCH_SIZE,
        on_error: Callable[[str, UserError], None] | None = None,
        progress: bool = False,
    ) -> Iterator[Prediction]:
        """Label any number of files of any length in constant memory, and yield results as they come.

        The probabilities of a window depend neither on its batch nor on the audio around it.

        Args:
            files: Paths.
            window: Seconds per window. None labels a file of up to 30 s whole, and a longer one in windows of 4 s.
            hop: Seconds from one window's start to the next; None: half a window.
            silence_dbfs: A window whose loudest 25 ms are quieter is silent and gets no label.
            batch_size: Windows per batch.
            on_error: Called with a file that cannot be read to its end, and its error; the other files are labelled.
                None raises the first error.
            progress: Show a progress bar in a terminal.

        Yields:
            One prediction per file or window, in order.

        Raises:
            UserError: A wrong window, hop or batch size, or a file that cannot be read.
        """
        window_samples(window, hop)
        if math.isnan(silence_dbfs):
            raise UserError("--silence_dbfs nan: must be a number of decibels, 0 or less")
        if batch_size < 1:
            raise UserError(f"--batch_size {batch_size}: must be 1 or more")
        return self._predict(
            [os.fspath(file) for file in files], window, hop, silence_dbfs, batch_size, on_error, progress
        )

    @property
    def _sure_probability(self) -> float:
        return self.model.config.sure_probability_of(self.model.config.adapted) or 0.0

    @torch.inference_mode()
    def _classify(self, clips: list[np.ndarray]) -> list[tuple[dict[str, float], float]]:
        """Return each clip's probabilities by label, in the model's order, and its novelty as in `Prediction`."""
        head, limit = self.model.head, self.model.config.novelty_limit
        encoded = self.model.encoder(**self._extract(clips))
        frames = self.model._to_head(encoded.frames)
        probabilities = head(frames, encoded.mask).logits.float().softmax(dim=-1)
        if self._weights is not None:
            probabilities = probabilities * self._weights
            probabilities = probabilities / probabilities.sum(dim=-1, keepdim=True)
        novelty = [0.0] * len(clips)
        if limit is not None:
            novelty = (head.novelty(head.mean_frames(frames, encoded.mask)) / limit).tolist()
        labels = self.labels
        named = (dict(zip(labels, row, strict=True)) for row in probabilities.tolist())
        return list(zip(named, novelty, strict=True))

    def _extract(self, clips: list[np.ndarray]) -> dict[str, torch.Tensor]:
        inputs = self.extractor(clips, sampling_rate=SAMPLING_RATE, padding="longest", return_tensors="pt")
        return dict(inputs.to(self.model.device))

    def _predict(self, files, window, hop, silence_dbfs, batch_size, on_error, progress) -> Iterator[Prediction]:
        counts = "{percentage:3.0f}%|{bar}| {n:.1f} of {total} files [{elapsed}<{remaining}]"
        with tqdm(total=len(files), bar_format=counts, disable=None if progress else True) as bar:
            for pool in pool_pieces(read_pieces(files, window, hop, on_error), silence_dbfs, batch_size):
                waiting = deque(pool)
                for batch in chain(self._batches([piece for piece in pool if len(piece.samples)], batch_size), [[]]):
                    clips = [piece.samples for piece in batch]
                    for piece, (named, novelty) in zip(batch, self._classify(clips) if clips else [], strict=True):
                        piece.window = replace(
                            piece.window, probabilities=named, novelty=novelty, sure_probability=self._sure_probability
                        )
                    while waiting and (waiting[0].window.probabilities or not len(waiting[0].samples)):
                        piece = waiting.popleft()
                        bar.update(piece.done - bar.n)
                        yield piece.window
            bar.update(bar.total - bar.n)

    def _batches(self, pieces: list[Piece], batch_size: int) -> Iterator[list[Piece]]:
        """Batch pieces of similar length; a batch on a CPU has at most `MOST_MEL_FRAMES`."""
        pieces = sorted(pieces, key=lambda piece: len(piece.samples))
        mel_frames = torch.tensor([-(-len(piece.samples) // self.extractor.hop_length) for piece in pieces])
        most = MOST_MEL_FRAMES if self.model.device.type == "cpu" else math.inf
        batch: list[Piece] = []
        for piece, frames in zip(pieces, self.model.encoder.encoded_mel_frames(mel_frames).tolist(), strict=True):
            if len(batch) == batch_size or (batch and (len(batch) + 1) * frames > most):
                yield batch
                batch = []
            batch.append(piece)
        if batch:
            yield batch


def label_weights(priors: Mapping[str, float], labels: Sequence[str]) -> list[float]:
    """Return a factor for each label's probability, given the expected shares.

    Args:
        priors: As in `EmotionClassifier`.
        labels: The model's labels.

    Raises:
        UserError: A label is unknown, a share is outside 0 to 1, or the sum is wrong.
    """
    for name, share in priors.items():
        if name not in labels:
            raise UserError(f"--priors {name}={share:g}: unknown label, the model has {', '.join(labels)}")
        if not 0 <= share <= 1:
            raise UserError(f"--priors {name}={share:g}: must be a share from 0 to 1")
    total, others = sum(priors.values()), len(labels) - len(priors)
    if total > 1 + PRIOR_ROUNDING or (not others and total < 1 - PRIOR_ROUNDING):
        raise UserError(f"--priors: sum to {total:g}, expected {'at most ' * (others > 0)}1")
    rest = max(0.0, 1 - total) / max(others, 1)
    return [len(labels) * priors.get(name, rest) for name in labels]


def choose_device(name: str = "auto") -> torch.device:
    """Find a device by torch's name; `auto` is the accelerator that torch finds, otherwise the CPU.

    Raises:
        UserError: The device does not exist.
    """
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "auto":
        return found or torch.device("cpu")
    names = ["cpu"]
    if found is not None:
        names += [found.type, *(f"{found.type}:{index}" for index in range(torch.accelerator.device_count()))]
    if name not in names:
        raise UserError(f"--device {name}: does not exist: it must be auto or one of {', '.join(names)}")
    return torch.device(name)


def _as_list(recordings: AudioSource | Sequence[AudioSource]) -> list[AudioSource]:
    """Make a list of one or several recordings; a pair whose second item is a number is `(array, rate)`."""
    pair = isinstance(recordings, tuple) and len(recordings) == 2 and isinstance(recordings[1], numbers.Real)
    if pair or isinstance(recordings, (str, os.PathLike, Mapping)):
        return [cast(AudioSource, recordings)]
    return list(cast(Sequence[AudioSource], recordings))


def _beginning(source: AudioSource, instead: str = "") -> np.ndarray:
    """Return the first 30 s of a recording; warn if it is longer, with the hint `instead`."""
    samples = read_audio(source)
    if len(samples) > LONGEST_SECONDS * SAMPLING_RATE:
        logger.warning(
            "%s lasts %.1f s: only its first %d s are used%s",
            printable(os.fspath(source)) if isinstance(source, (str, os.PathLike)) else "a recording",
            *(len(samples) / SAMPLING_RATE, LONGEST_SECONDS, instead),
        )
    return samples[: LONGEST_SECONDS * SAMPLING_RATE]
