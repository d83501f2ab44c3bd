"""The soak at a small scale: a few updates of each kind, with a seed that no two runs share."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]

TIMEOUT: Final = 240.0
"""Seconds for the program, which needs a few; a bound for a machine that does other things."""

UPDATES: Final = 10


def test_every_update_ends_with_the_image_or_with_a_board_that_can_be_updated() -> None:
    """From a file, stored from a server and streamed, on lines that flip, drop and double bytes, and are unplugged."""
    command = [sys.executable, "-m", "tests.hil.soak", "--updates", str(UPDATES), "--json"]

    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT)

    assert 0 == run.returncode, run.stdout + run.stderr  # with the seed
    found = json.loads(run.stdout)
    updates: Counter[str] = Counter()
    for ended, count in found["counts"].items():
        updates[ended.partition(":")[0]] += count
    assert {"file": UPDATES, "store": UPDATES, "stream": UPDATES} == updates
    assert found["counts"].get("file: updated", 0) > 0
