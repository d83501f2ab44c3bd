"""Every exception of this package, and the verdict that each one stands for.

* ConformanceError
    * TargetError      the target file is wrong: the user's mistake, found before any case runs
    * CatalogueError   a requirement that does not exist, or a catalogue that contradicts itself
    * ResultsError     a folder without results of a run, or with results of another version
    * HarnessError     the kit's own trouble
    * CouldNotTest     the target did not start, or does not show what a case must look at
        * NotConnected a device that did not connect
        * ReadingError a firmware file or a flash dump that bincopy cannot read
    * NotImplementedByTarget  the target declares that it lacks what a case is about
    * WireError        bytes that are no frame in some state; a peer makes a Nonconformance of it
    * Nonconformance   the target did something else than a case demands
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fota_conformance.verdicts import Verdict


class ConformanceError(Exception):
    """Base of all errors raised by `fota_conformance`."""


class TargetError(ConformanceError):
    """A target file cannot be used as it is; the message names file and key, and what was expected there."""

    def __init__(self, path: Path, key: str, problem: str) -> None:
        self.path = path
        self.key = key
        super().__init__(f"{path}: {key}: {problem}" if key else f"{path}: {problem}")


class CatalogueError(ConformanceError):
    """No such requirement, or a catalogue that contradicts itself; the message says which."""


class ResultsError(ConformanceError):
    """The results of a run cannot be read; the message says which and why."""


class HarnessError(ConformanceError):
    """The kit itself cannot go on."""


class CouldNotTest(ConformanceError):
    """The target did not start, or does not show what the case must look at."""


class NotConnected(CouldNotTest):
    """The device did not connect; a case about that it must do so makes a Nonconformance of it."""


class ReadingError(CouldNotTest):
    """bincopy cannot read a firmware file or a flash dump; the message says which and why."""


class NotImplementedByTarget(ConformanceError):
    """The target declares that it lacks what the case is about."""


class WireError(ConformanceError):
    """Bytes that are no frame in the state they came in; the message says where and why."""


class Nonconformance(ConformanceError, AssertionError):
    """The target did something else than the case demands: what was sent, what came, what would have been accepted."""

    def __init__(self, situation: str, *, sent: str, came: str, accepted: str) -> None:
        self.situation = situation
        self.sent = sent
        self.came = came
        self.accepted = accepted
        super().__init__(f"{situation}\n  sent:     {sent}\n  came:     {came}\n  accepted: {accepted}")


def verdict_of(error: BaseException) -> Verdict:
    """What an exception that ended a case says about it; only a `Nonconformance` speaks of the target."""
    if isinstance(error, CouldNotTest):
        return Verdict.COULD_NOT_TEST
    if isinstance(error, NotImplementedByTarget):
        return Verdict.NOT_IMPLEMENTED
    if isinstance(error, Nonconformance):
        return Verdict.FAIL
    return Verdict.HARNESS_ERROR


@contextmanager
def in_situation(situation: str) -> Iterator[None]:
    """What fails in the `with` block is put down to a situation."""
    try:
        yield
    except Nonconformance as error:
        raise put_down_to(situation, error) from error


def put_down_to(situation: str, error: Nonconformance) -> Nonconformance:
    """The same failure, put down to a situation."""
    return Nonconformance(f"{situation}, {error.situation}", sent=error.sent, came=error.came, accepted=error.accepted)
