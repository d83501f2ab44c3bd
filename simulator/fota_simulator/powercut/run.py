"""A whole run: all cuts of a scenario on several processes, and a sample of them played unmerged to check the judge.

Each worker has the scenario and an explorer of its own, and takes ranges of flash commands as they come. Results do not
depend on how many workers there are, nor on who did what: classes are counted here.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from typing import Any, Final

from ..errors import WorkerLost
from .explore import Explorer, Judged
from .promises import Tally
from .scenario import Scenario
from .verdict import Verdict

SAMPLE: Final = 500
"""Cuts that are played unmerged."""

_RANGES_PER_WORKER: Final = 12
_LONGEST_RANGE: Final = 512
_SAMPLES_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A cut on which the merged run and the cut played alone differ: the judge is wrong."""

    cut: int
    merged: Verdict
    played: Verdict


@dataclass(frozen=True, slots=True)
class CutReport:
    """What came of all cuts of a scenario."""

    tally: Tally
    sampled: int
    disagreements: tuple[Disagreement, ...]

    @property
    def kept(self) -> bool:
        """Whether every promise of the policy was kept."""
        return not self.tally.broken


Progress = Callable[[float], None]
"""Told which part of the work is done, from 0 to 1."""


def run(scenario: Scenario, *, jobs: int, sample: int = SAMPLE, on_progress: Progress = lambda done: None) -> CutReport:
    """Judge every cut; raises `ScenarioError` for an update that cannot be cut, `WorkerLost` when a process died."""
    commands, cuts = scenario.clean.commands, scenario.cuts
    length = max(1, min(_LONGEST_RANGE, -(-commands // (jobs * _RANGES_PER_WORKER))))
    ranges = [range(first, min(first + length, commands + 1)) for first in range(1, commands + 1, length)]
    drawn = random.Random(scenario.seed).sample(range(1, cuts + 1), min(sample, cuts))
    pieces = [drawn[i : i + _SAMPLES_AT_ONCE] for i in range(0, len(drawn), _SAMPLES_AT_ONCE)]
    judged: list[Judged] = []
    played: dict[int, Verdict] = {}
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(scenario, stop))
    try:
        with _interrupts_held():  # submitting starts the processes
            # The longest ranges, those at the end of the image, first.
            judging = [pool.submit(_judge, piece) for piece in reversed(ranges)]
            playing = {pool.submit(_play, piece): piece for piece in pieces}
        every: list[Future[Any]] = [*judging, *playing]
        for future in as_completed(every):
            if (piece := playing.get(future)) is not None:
                played.update(zip(piece, future.result(), strict=True))
            else:
                judged += future.result()
            on_progress(_done(sum(group.cuts for group in judged) / cuts, len(played), len(drawn)))
    except BrokenProcessPool as error:
        raise WorkerLost("a process that judged cuts died; the run is not complete") from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
    return CutReport(Tally.of(judged, scenario.settings.policy), len(played), _compared(judged, played))


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """SIGINT waits until the end, and for good in the processes that are started meanwhile: who started them decides.

    Otherwise one that comes while a process starts ends it in the midst of Python's own work, with a traceback.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _done(judged: float, played: int, drawn: int) -> float:
    """Playing the sample takes about as long as judging everything."""
    return (judged + played / drawn) / 2 if drawn else judged


def _compared(judged: Sequence[Judged], played: dict[int, Verdict]) -> tuple[Disagreement, ...]:
    merged = {number: group.verdict for group in judged for number in played if group.first <= number <= group.last}
    return tuple(
        Disagreement(number, merged[number], verdict)
        for number, verdict in sorted(played.items())
        if merged[number] != verdict
    )


# In the workers.

_explorer: Explorer
_scenario: Scenario
_stop: Event


def _begin(scenario: Scenario, stop: Event) -> None:
    global _explorer, _scenario, _stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started us is told, and tells us
    _explorer, _scenario, _stop = Explorer(scenario), scenario, stop
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    """No worker outlives the process that it works for, however that ends."""
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


def _judge(commands: range) -> list[Judged]:
    return _explorer.judge_commands(commands, _stop.is_set)


def _play(cuts: Sequence[int]) -> list[Verdict]:
    return _explorer.sample([_scenario.cut(number) for number in cuts], _stop.is_set)
