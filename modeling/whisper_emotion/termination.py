"""SIGTERM as an exception: at once, or, where work can be kept first, when it is kept."""

from collections.abc import Iterator
from contextlib import contextmanager


class Terminated(BaseException):
    """The process was asked to end. Like `KeyboardInterrupt`, it is no error that anything should recover from."""


class Termination:
    """The handler of SIGTERM that `cli.run_script` installs."""

    def __init__(self):
        self.asked = self._held = False

    def __call__(self, *_) -> None:
        """Take note, and raise `Terminated` unless it is held back."""
        self.asked = True
        if not self._held:
            raise Terminated

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within, the process is not ended by the signal, but looks at `asked` itself; at its end it is."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self.asked:
            raise Terminated


termination = Termination()
