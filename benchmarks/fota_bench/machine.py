"""The machine: what the numbers depend on, and how much else it did meanwhile. Linux only, as is `/proc`."""

import os
import platform
import shutil
import subprocess
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

PACKAGES: Final = ("k60-fota", "uvloop", "bincopy", "intelhex")
"""Distributions whose versions the numbers depend on."""

TOOL_TIMEOUT: Final = 10.0
"""Seconds that a program has to say its version."""


@dataclass(frozen=True, slots=True)
class Cores:
    """What all cores have done so far, in seconds of one core."""

    clock: float
    busy: float
    """In processes, ours and others."""
    stolen: float
    """Taken by the host of a virtual machine."""
    ours: float
    """In this process and in those it started and has waited for."""

    @classmethod
    def now(cls) -> "Cores":
        """As the system tells it."""
        user, nice, system, _, _, _, _, stolen = map(int, Path("/proc/stat").read_text().split(maxsplit=9)[1:9])
        tick = os.sysconf("SC_CLK_TCK")
        own = os.times()
        ours = own.user + own.system + own.children_user + own.children_system
        return cls(time.monotonic(), (user + nice + system) / tick, stolen / tick, ours)


def machine_facts(before: Cores, after: Cores) -> dict[str, Any]:
    """What the numbers of a run between `before` and `after` depend on, for JSON."""
    cores = len(os.sched_getaffinity(0))
    available = (after.clock - before.clock) * cores
    others = after.busy - before.busy - (after.ours - before.ours)
    return {
        "seconds": after.clock - before.clock,
        "cores": cores,
        "processor": _processor(),
        "kernel": platform.release().partition("-")[0],
        "others_share": max(0.0, others / available),
        "stolen_share": (after.stolen - before.stolen) / available,
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
        "cc": first_line("cc", "--version"),
        "srec_info": first_line("srec_info", "--version"),
    }


def disturbance(facts: dict[str, Any]) -> str:
    """How much else the machine did; ratios of a busy machine say little, whoever wins."""
    return (
        f"While it ran, other processes took {facts['others_share']:.0%} of the cores' time, "
        f"the machine's host {facts['stolen_share']:.0%}."
    )


def first_line(program: str, *arguments: str) -> str | None:
    """The first line that a program prints; None where there is no such program."""
    path = shutil.which(program)
    if path is None:
        return None
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=True, timeout=TOOL_TIMEOUT)
    return done.stdout.splitlines()[0]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
