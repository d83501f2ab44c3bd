"""Verdicts: what ends a case, what a case comes to, what a run comes to."""

import pytest

from fota_conformance.errors import (
    ConformanceError,
    CouldNotTest,
    HarnessError,
    Nonconformance,
    ReadingError,
    verdict_of,
)
from fota_conformance.hosts import make_mcuid
from fota_conformance.verdicts import Verdict, exit_code, worst


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (Nonconformance("here", sent="a", came="b", accepted="c"), Verdict.FAIL),
        (AssertionError("1 == 2"), Verdict.HARNESS_ERROR),
        (CouldNotTest("not there"), Verdict.COULD_NOT_TEST),
        (ReadingError("not readable"), Verdict.COULD_NOT_TEST),
        (HarnessError("no port"), Verdict.HARNESS_ERROR),
        (ConformanceError("?"), Verdict.HARNESS_ERROR),
        (KeyError("bug"), Verdict.HARNESS_ERROR),
    ],
)
def test_exception_has_a_verdict(error: Exception, verdict: Verdict) -> None:
    """The target's faults fail; what nobody could see and what the kit did wrong is told apart from them."""
    assert verdict is verdict_of(error)


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ({Verdict.PASS}, 0),
        ({Verdict.PASS, Verdict.NON_STRICT, Verdict.NOT_IMPLEMENTED}, 0),
        ({Verdict.PASS, Verdict.FAIL}, 1),
        ({Verdict.FAIL, Verdict.HARNESS_ERROR, Verdict.COULD_NOT_TEST}, 1),
        ({Verdict.PASS, Verdict.COULD_NOT_TEST}, 3),
        ({Verdict.PASS, Verdict.HARNESS_ERROR}, 3),
        ({Verdict.NOT_IMPLEMENTED}, 3),
        (set(), 3),
    ],
)
def test_run_has_an_exit_code(verdicts: set[Verdict], code: int) -> None:
    """A run is well only if something was tested, nothing failed and nothing is unknown."""
    assert code == exit_code(verdicts)


def test_a_run_that_lacks_something_is_not_well() -> None:
    """Cases that all pass are not enough where some were not played; a failure stays one."""
    assert exit_code([Verdict.PASS], whole=False) == 3
    assert exit_code([Verdict.FAIL], whole=False) == 1


def test_worst_phase_is_the_case() -> None:
    """A failed case stays failed whatever its teardown does."""
    assert worst([Verdict.PASS, Verdict.FAIL, Verdict.HARNESS_ERROR]) is Verdict.FAIL
    assert worst([]) is Verdict.PASS


def test_mcuid_is_unique_per_case_worker_and_number() -> None:
    """An MCUID is 25 decimal digits, the same in every run, another for every case, worker and number."""
    mcuids = [make_mcuid(case, worker, index) for case in "ab" for worker in ("gw0", "gw1") for index in (0, 1)]

    assert [len(mcuid) for mcuid in mcuids if mcuid.isdecimal()] == [25] * 8
    assert len(set(mcuids)) == 8
    assert mcuids[0] == make_mcuid("a", "gw0", 0)
