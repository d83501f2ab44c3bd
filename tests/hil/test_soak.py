"""The soak at a small scale: a few updates of each kind, with a seed that no two runs share."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]

TIMEOUT: Final = 600.0
"""Seconds for the program, which needs twenty at most; a bound for a machine that does other things."""

PROGRAMMER: Final = ("file", "store", "stream")


@pytest.mark.parametrize(
    ("ways", "updates", "options"),
    [(PROGRAMMER, 10, ()), (PROGRAMMER, 2, ("--pty",)), (("relay",), 4, ())],
    ids=["virtual time", "pseudo-terminals", "relay"],
)
def test_every_update_ends_with_the_image_or_with_a_board_that_can_be_updated(
    ways: tuple[str, ...], updates: int, options: tuple[str, ...]
) -> None:
    """On lines that flip, drop and double bytes and are unplugged, with servers and relays that are lost."""
    command = [sys.executable, "-m", "tests.hil.soak", "--updates", str(updates), "--json", *options]
    command += [f"--way={way}" for way in ways]

    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT)

    assert 0 == run.returncode, run.stdout + run.stderr  # with the seed
    found: Counter[str] = Counter()
    for ended, count in json.loads(run.stdout)["counts"].items():
        way, colon, _ = ended.partition(": ")
        found[way] += count if colon else 0
    assert dict.fromkeys(ways, updates) == +found
