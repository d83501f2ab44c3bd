"""Real event loops: uvloop in earnest, plain asyncio where uvloop does not exist.

The simulated loop is in `simulated`; both are passed to whoever needs a loop, none is set globally.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

_T = TypeVar("_T")

DESCRIPTORS_WITHOUT_A_LIMIT: Final = 1_048_576
"""Open files to ask for where the system names no hard limit (Linux's own `fs.nr_open`)."""

DESCRIPTORS_UNKNOWN: Final = 512
"""Open files to reckon with where the system has no limit to ask for (C runtime of Windows)."""


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a new loop: uvloop's if it is installed, else asyncio's."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def run(main: Coroutine[Any, Any, _T]) -> _T:
    """Run `main` to its end on a new loop and return its result; the loop is closed afterwards."""
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(main)
    finally:
        main.close()  # which an interrupt may have kept from beginning


def raise_descriptor_limit() -> int:
    """Raise this process's limit of open files as far as it may; return the limit in force."""
    try:
        import resource
    except ImportError:
        return DESCRIPTORS_UNKNOWN
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS_WITHOUT_A_LIMIT if hard == resource.RLIM_INFINITY else hard
    if soft == resource.RLIM_INFINITY:
        return DESCRIPTORS_WITHOUT_A_LIMIT
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):  # macOS names a hard limit that it does not grant
            return soft
    return max(soft, wanted)
