"""SIGTERM as an exception, raised at once or, in a protected block, after the work is saved."""

from collections.abc import Iterator
from contextlib import contextmanager


class Terminated(BaseException):
    """The process received SIGTERM. Like `KeyboardInterrupt`, this is not an error to recover from."""


class Termination:
    """The handler of SIGTERM that `cli.run_script` installs."""

    def __init__(self):
        self.asked = self._held = False

    def __call__(self, *_) -> None:
        """Set `asked`, and raise `Terminated` outside a `held` block."""
        self.asked = True
        if not self._held:
            raise Terminated

    @contextmanager
    def held(self) -> Iterator[None]:
        """Delay termination to the end of the block; code in the block may check `asked` and stop early."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self.asked:
            raise Terminated


termination = Termination()
