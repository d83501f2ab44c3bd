"""What a case can come to, and what a whole run then comes to.

Pure: no pytest, no I/O. A verdict is about the target alone; what went wrong on the kit's side has verdicts of its own,
so that neither is ever taken for the other.
"""

import enum
from collections.abc import Iterable
from typing import Final


class Verdict(enum.Enum):
    """The outcome of one case, from best to worst: the worst phase of a case is its verdict."""

    PASS = "PASS"
    """The target did what the case demands."""
    NOT_IMPLEMENTED = "NOT-IMPLEMENTED"
    """The target declares that it lacks an optional capability."""
    NON_STRICT = "NON-STRICT"
    """The target departs from a requirement that does not bind it."""
    COULD_NOT_TEST = "COULD-NOT-TEST"
    """The target did not start, or does not show what the case must look at."""
    HARNESS_ERROR = "HARNESS-ERROR"
    """The kit itself failed; nothing is known about the target."""
    FAIL = "FAIL"
    """The target did something else than the case demands."""


EXIT_WELL: Final = 0
"""Every selected MUST was exercised and passed."""
EXIT_FAILED: Final = 1
"""At least one case failed."""
EXIT_USAGE: Final = 2
"""The target file or an option is wrong, or no case was selected."""
EXIT_UNTESTED: Final = 3
"""Nothing failed, but something could not be tested."""

EXIT_MEANINGS: Final = {
    EXIT_WELL: "every selected MUST was exercised and passed",
    EXIT_FAILED: "at least one case failed",
    EXIT_USAGE: "the target file or an option is wrong, or no case was selected",
    EXIT_UNTESTED: "nothing failed, but something could not be tested",
}
"""What each exit code says, for people."""


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of the phases of one case; `PASS` if there are none."""
    order = list(Verdict)
    return max(verdicts, key=order.index, default=Verdict.PASS)


def exit_code(verdicts: Iterable[Verdict], *, whole: bool = True) -> int:
    """The exit code of a run: a failure is certain and comes first, then what nobody knows.

    `verdicts` are those of the cases that count, `whole` says that nothing is missing besides: the run came to its end
    and exercised what it had selected.
    """
    seen = set(verdicts)
    if Verdict.FAIL in seen:
        return EXIT_FAILED
    unknown = {Verdict.HARNESS_ERROR, Verdict.COULD_NOT_TEST}
    if not whole or seen & unknown or seen <= {Verdict.NOT_IMPLEMENTED}:
        return EXIT_UNTESTED
    return EXIT_WELL
