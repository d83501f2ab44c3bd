"""Hands at a board: commands that press its buttons or switch its power, and a person where there is no command.

A command template is split into words as a shell would, and only then are `{port}`, `{baud}` and `{mcuid}` replaced in
each word; no shell sees it, so nothing that a placeholder stands for can become a command. It has a time limit, its
exit code counts, and one that takes too long is ended with all that it started. So is one whose owner is told to stop:
it has `STOP_GRACE` to come to its end, since half a reset is none.

Theory of operation. The stock bootloader looks at a pin in each reset: SW1 held leads to it, SW1 let go to the
application. So `enter` is to hold the button, `reset` or `power` to restart the board, and `leave` to let it go before
the bootloader is asked to quit, which resets it. Who has no commands is asked; who may not be asked has to have had the
board in its bootloader before.
"""

import _thread
import contextlib
import enum
import os
import re
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Final

from .errors import BoardError, BoardFault, HandNeeded, TemplateError

COMMAND_TIMEOUT: Final = 60.0
"""Seconds that a command may take."""

STOP_GRACE: Final = 2.0
"""Seconds that a command may take whose owner has been told to stop, by SIGTERM or Ctrl-C."""

END_GRACE: Final = 1.0
"""Seconds from SIGTERM to SIGKILL for a command that is ended."""

START_TIMEOUT: Final = 5.0
"""Seconds for the system to start a command, before it can be ended."""

_LOOK_INTERVAL: Final = 0.1
"""Seconds between two looks whether its owner has been told to stop."""

KEPT_OUTPUT: Final = 400
"""Bytes of a command's output that are shown when it fails."""

PLACEHOLDERS: Final = frozenset({"port", "baud", "mcuid"})
"""What may stand between braces in a template."""

_KILL: Final = getattr(signal, "SIGKILL", signal.SIGTERM)  # not on Windows

_PLACEHOLDER: Final = re.compile(r"\{([A-Za-z_]\w*)\}")


@dataclass(frozen=True, slots=True)
class Template:
    """A command with placeholders, in words."""

    words: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Template":
        """Split a command line; raises `TemplateError`."""
        try:
            words = tuple(shlex.split(text))
        except ValueError as error:
            raise TemplateError(f"command {text!r}: {error}") from error
        if not words:
            raise TemplateError("an empty command, expected a program and its arguments")
        unknown = {name for word in words for name in _PLACEHOLDER.findall(word)} - PLACEHOLDERS
        if unknown:
            known = ", ".join(f"{{{name}}}" for name in sorted(PLACEHOLDERS))
            raise TemplateError(f"command {text!r}: {{{min(unknown)}}}, expected one of {known}")
        return cls(words)

    def filled(self, values: Mapping[str, str]) -> list[str]:
        """The words with `values` in their places."""
        return [_PLACEHOLDER.sub(lambda match: values.get(match[1], ""), word) for word in self.words]

    def run(
        self,
        values: Mapping[str, str],
        timeout_s: float = COMMAND_TIMEOUT,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        """Run it to its end; raises `TemplateError` unless it ends in time with exit code 0.

        Once `is_stopping` says so, in time is within `STOP_GRACE`.
        """
        words = self.filled(values)
        shown = shlex.join(words)
        with tempfile.TemporaryFile() as output:
            with _Running(words, shown, output) as process:
                missed = _missed(process, timeout_s, is_stopping)
            if missed is not None:
                raise TemplateError(f"{shown} {missed}{_tail(output)}")
            if code := process.returncode:
                how = f"exit code {code}" if code > 0 else f"signal {-code}"
                raise TemplateError(f"{shown} failed, {how}{_tail(output)}")


class _Running:
    """A command that runs, until it has ended or this is left.

    It is started in a thread of its own, where no signal's handler runs: an exception of one, between the start of the
    command and our hearing of it, would leave it behind. For the same reason thread and lock are the interpreter's own:
    an exception within `threading.Event` can leave it locked for ever.
    """

    def __init__(self, words: list[str], shown: str, output: IO[bytes]) -> None:
        self._words = words
        self._shown = shown
        self._output = output
        self._process: subprocess.Popen[bytes] | None = None
        self._trouble: OSError | ValueError | None = None
        self._starting = _thread.allocate_lock()
        """Held until the start has come to its end."""

    def __enter__(self) -> "subprocess.Popen[bytes]":
        try:
            self._starting.acquire()
            _thread.start_new_thread(self._start, ())
            self._starting.acquire()
        except BaseException:
            self._end()
            raise
        if self._process is None:
            error = self._trouble
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise TemplateError(f"cannot run {self._shown}: {reason}") from error
        return self._process

    def __exit__(self, *exc_info: object) -> None:
        self._end()

    def _start(self) -> None:
        try:
            self._process = subprocess.Popen(
                self._words,
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            self._trouble = error
        finally:
            self._starting.release()

    def _end(self) -> None:
        """End a command that has not ended, and what it started: first in order."""
        if self._process is None and self._trouble is None:
            self._starting.acquire(timeout=START_TIMEOUT)
        process = self._process
        if process is None or process.poll() is not None:
            return
        _signal(process, signal.SIGTERM)
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_GRACE)
        finally:
            _signal(process, _KILL)  # its group may outlive it
            process.wait()


def _missed(process: "subprocess.Popen[bytes]", timeout_s: float, is_stopping: Callable[[], bool]) -> str | None:
    """Wait for the end of a command; returns which limit it has missed, None for none."""
    began = time.monotonic()
    stopped: float | None = None
    while True:
        now = time.monotonic()
        if stopped is None and is_stopping():
            stopped = now
        if now >= began + timeout_s:
            return f"did not end within {timeout_s:g} s"
        if stopped is not None and now >= stopped + STOP_GRACE:
            return f"did not end within {STOP_GRACE:g} s of the order to stop"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(min(_LOOK_INTERVAL, began + timeout_s - now))
            return None


class Act(enum.Enum):
    """What can be done at a board."""

    ENTER = "enter"
    """Hold what leads to the bootloader at the next reset."""
    RESET = "reset"
    POWER = "power"
    """Off, and on again."""
    LEAVE = "leave"
    """Let go what ENTER holds."""


class Hands:
    """Does what has to be done at a board, by commands or by a person.

    `tell` shows a line to whoever watches; `wait` asks a person to press Enter, None if nobody may be asked.
    """

    def __init__(
        self,
        commands: Mapping[Act, Template],
        values: Mapping[str, str],
        *,
        tell: Callable[[str], None],
        wait: Callable[[str], None] | None,
        timeout_s: float = COMMAND_TIMEOUT,
    ) -> None:
        self.person_entered = False
        """Whether a person was asked to bring the board into its bootloader: the button may still be held."""
        self._commands = commands
        self._values = values
        self._tell = tell
        self._wait = wait
        self._timeout = timeout_s
        self._means = [act for act in (Act.RESET, Act.POWER) if act in commands]
        self._is_hurried = False

    def has(self, act: Act) -> bool:
        """Whether there is a command for it."""
        return act in self._commands

    def hurry(self) -> None:
        """Give commands no more than `STOP_GRACE` from now on: their owner has been told to stop."""
        self._is_hurried = True

    def enter(self) -> None:
        """Before anything else: hold the button, and restart the board, by those commands that there are."""
        if Act.ENTER in self._commands:
            self._run(Act.ENTER)
        if self._means:
            self._run(self._means[0])

    def help_silent(self) -> bool:
        """The board does not answer: switch its power if that can be done, else ask a person for what has no command.

        Returns whether there was anything to do.
        """
        if Act.POWER in self._commands and Act.RESET in self._commands:
            self._run(Act.POWER)
            return True
        if self._wait is None or (self._means and Act.ENTER in self._commands):
            return False
        by_hand = [] if Act.ENTER in self._commands else ["hold SW1"]
        by_hand += [] if self._means else ["press reset"]
        self.person_entered = Act.ENTER not in self._commands
        self._tell(f"no bootloader answers: {', '.join(by_hand)}; waiting for the board")
        if self._means and self.person_entered:
            self.ask("SW1 must be held now, so that the reset that follows leads to the bootloader")
            self._run(self._means[0])
        return True

    def revive(self, connect: Callable[[], object]) -> bool:
        """Restart a board that fell silent in mid-update, by each command once, until `connect` reaches it.

        Returns whether it did; another board is nobody to go on with, and raises.
        """
        while self._means:
            self._run(self._means.pop(0))
            try:
                connect()
            except BoardError as error:
                if error.fault is BoardFault.OTHER_BOARD:
                    raise
                self._tell(f"still silent: {error}")
            else:
                return True
        if self._wait is None or Act.RESET in self._commands or Act.POWER in self._commands:
            return False
        # A person may be there for what no command does.
        held = "" if Act.ENTER in self._commands else "hold SW1 and "
        self.person_entered = self.person_entered or bool(held)
        self.ask(f"the board fell silent: {held}press reset")
        connect()
        return True

    def leave(self) -> None:
        """Let go of the button, so that the reset that follows leads to the application."""
        if Act.LEAVE in self._commands:
            self._run(Act.LEAVE)
        elif self.person_entered:
            self.ask("SW1 must be let go now, so that the board starts its application")

    def ask(self, what: str) -> None:
        """Have a person do something and say so; raises `HandNeeded` if nobody may be asked."""
        if self._wait is None:
            raise HandNeeded(f"{what}; nobody may be asked (--no-input)")
        self._wait(what)

    def _run(self, act: Act) -> None:
        template = self._commands[act]
        self._tell(f"{act.value}: {shlex.join(template.filled(self._values))}")
        try:
            template.run(self._values, self._timeout, lambda: self._is_hurried)
        except TemplateError as error:
            raise TemplateError(f"--{act.value}: {error}") from error


def _signal(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, number)
        else:
            process.terminate()  # Windows knows one way only


def _tail(output: IO[bytes]) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - KEPT_OUTPUT))
    text = output.read().decode("utf-8", "backslashreplace").strip()
    return f": {text}" if text else ""
