"""What Ctrl-C does to a process of ours, at every moment of its life: exit code 130, and no traceback.

Before its command runs, and after that, nothing is under way that had to be put in order: an interrupt ends the process
at once. While the command runs it is Python's `KeyboardInterrupt`, or what the command makes of it. What an import does
with such an exception is anybody's guess, so a command that imports late has it wait.

This is imported before anything else, and imports nothing that Python has not loaded yet: `signal` and `typing` take
milliseconds, in which an interrupt would find nobody. What comes before, Python's own start, is Python's. Where SIGINT
is ignored, as a shell does for what it runs in the background, it stays so; where `fota` is called by another program,
that one's handler stays.
"""

import _signal  # type: ignore[import-not-found]  # what `signal` is made of
import os

EXIT_CODE = 130
"""As `exit_codes.INTERRUPTED`."""


def end_at_once(_: int, __: object) -> None:
    """Handler: end the process now."""
    os.write(2, b"fota: interrupted\n")
    os._exit(EXIT_CODE)


def begin() -> None:
    """From now on an interrupt ends this process, which is ours alone."""
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, end_at_once)


class Raised:
    """A context in which an interrupt is Python's `KeyboardInterrupt`, where it would end the process."""

    def __enter__(self) -> None:
        self._ends = _signal.getsignal(_signal.SIGINT) is end_at_once
        if self._ends:
            _signal.signal(_signal.SIGINT, _signal.default_int_handler)

    def __exit__(self, *_: object) -> None:
        if self._ends:
            _signal.signal(_signal.SIGINT, end_at_once)


class Deferred:
    """A context of the main thread in which an interrupt waits until its end, and is what it would have been then."""

    def __enter__(self) -> None:
        self._came = False
        self._before = _signal.signal(_signal.SIGINT, self._note)

    def __exit__(self, *_: object) -> None:
        _signal.signal(_signal.SIGINT, self._before)
        if self._came:
            _signal.raise_signal(_signal.SIGINT)

    def _note(self, _: int, __: object) -> None:
        self._came = True
