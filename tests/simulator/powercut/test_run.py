"""A whole run on real processes: the same result however many, and what is said when it cannot be trusted."""

import multiprocessing
import os
import signal

import pytest

from fota_simulator.boot import BootPolicy
from fota_simulator.errors import JudgeError, WorkerLost
from fota_simulator.powercut.explore import Judged
from fota_simulator.powercut.promises import Promise, Tally
from fota_simulator.powercut.run import Disagreement, _compared, run
from fota_simulator.powercut.verdict import FirstStart, Recovery, Verdict

from .images import scenario

GOOD = Verdict(FirstStart.BOOTLOADER, Recovery.ITSELF, True)
LOST = Verdict(FirstStart.OTHER, Recovery.NOT, True)
KEY = b"k" * 16


def test_result_does_not_depend_on_the_number_of_processes() -> None:
    """One or three: the same counts, and every sampled cut agrees."""
    under_test = scenario()
    told: list[float] = []

    alone = run(under_test, jobs=1, sample=5)
    together = run(under_test, jobs=3, sample=40, on_progress=told.append)

    assert alone.tally == together.tally
    assert (under_test.cuts, 40, ()) == (together.tally.cuts, together.sampled, together.disagreements)
    assert alone.kept
    assert sorted(told) == told
    assert told[-1] == 1.0


def test_process_that_dies_makes_the_run_invalid() -> None:
    """Nothing is reported of a run that is not complete."""

    def kill(done: float) -> None:
        for child in multiprocessing.active_children():
            assert child.pid is not None
            os.kill(child.pid, signal.SIGKILL)

    with pytest.raises(WorkerLost, match="died"):
        run(scenario(), jobs=2, sample=200, on_progress=kill)


def test_interrupted_run_leaves_no_process() -> None:
    """Whatever a progress callback raises, Ctrl-C among it, ends the workers too."""

    def interrupt(done: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(scenario(), jobs=2, sample=400, on_progress=interrupt)

    assert multiprocessing.active_children() == []


def test_promise_that_is_not_kept_is_named_with_its_first_cut() -> None:
    """By how many cuts, too; a policy that promises nothing breaks nothing."""
    groups = [
        Judged(1, 1, "before", KEY, GOOD),
        Judged(7, 9, "wire", b"l" * 16, LOST),
        Judged(2, 2, "torn", b"m" * 16, LOST),
    ]

    sealed, pin = Tally.of(groups, BootPolicy.SEALED), Tally.of(groups, BootPolicy.AN2295)

    assert [(Promise.WHOLE_IMAGES, 4, 2), (Promise.UPDATABLE, 4, 2)] == [
        (broken.promise, broken.cuts, broken.first) for broken in sealed.broken
    ]
    assert pin.broken == ()
    assert (5, 3) == (sealed.cuts, sealed.classes)
    assert {FirstStart.BOOTLOADER: 1, FirstStart.OTHER: 2} == sealed.first_of


def test_one_class_with_two_verdicts_is_an_error_of_the_judge() -> None:
    """States that are called equal must be."""
    with pytest.raises(JudgeError, match="cut 2"):
        Tally.of([Judged(1, 1, "torn", KEY, GOOD), Judged(2, 2, "torn", KEY, LOST)], BootPolicy.SEALED)


def test_sample_that_disagrees_is_told_cut_by_cut() -> None:
    """What was merged, and what was played."""
    groups = [Judged(1, 9, "wire", KEY, GOOD)]

    assert (Disagreement(3, GOOD, LOST),) == _compared(groups, {5: GOOD, 3: LOST})
