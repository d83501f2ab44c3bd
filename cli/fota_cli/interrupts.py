"""What Ctrl-C does to a process of ours, at every moment of its life: exit code 130, and no traceback.

Before its command runs, and after that, nothing is under way that had to be put in order: an interrupt ends the process
at once. While the command runs it is Python's `KeyboardInterrupt`, or what the command makes of it. What an import does
with such an exception is anybody's guess, so a command that imports late has it wait. A command that leaves something
behind when it is ended at once takes SIGTERM for an interrupt.

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
    """A context in which an interrupt waits until its end, and is what it would have been then.

    So does SIGTERM where it is one (`Sigterm`). Other threads than the main one hear of neither: there, this does
    nothing.
    """

    def __enter__(self) -> None:
        self._came: list[int] = []
        self._before: dict[int, object] = {}
        for number in (_signal.SIGINT, _signal.SIGTERM):
            before = _signal.getsignal(number)
            if callable(before) and _handle(number, self._note):
                self._before[number] = before

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            _signal.signal(number, before)
        for number in self._came:
            _signal.raise_signal(number)

    def _note(self, number: int, _: object) -> None:
        self._came.append(number)


class Sigterm:
    """A context in which SIGTERM is an interrupt, for a command that has something to put in order.

    It is whatever an interrupt is at that moment; also where interrupts are ignored, since nobody meant SIGTERM.
    """

    def __enter__(self) -> None:
        self._is_ours = _signal.getsignal(_signal.SIGTERM) == _signal.SIG_DFL and _handle(_signal.SIGTERM, _interrupt)

    def __exit__(self, *_: object) -> None:
        if self._is_ours:
            _signal.signal(_signal.SIGTERM, _signal.SIG_DFL)


def _interrupt(_: int, __: object) -> None:
    """Handler: be interrupted."""
    if not callable(_signal.getsignal(_signal.SIGINT)):
        raise KeyboardInterrupt
    _signal.raise_signal(_signal.SIGINT)


def _handle(number: int, handler: object) -> bool:
    """Have `handler` called for a signal, where that can be: in the main thread; returns whether it is."""
    try:
        _signal.signal(number, handler)
    except ValueError:
        return False
    return True
