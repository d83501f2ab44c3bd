"""Targets as processes: what they say is kept, readiness is seen without a connection, nothing is left behind."""

import os
import re
import socket
import sys
import time
from pathlib import Path

import pytest

from fota_conformance.errors import CouldNotTest
from fota_conformance.process import KEPT_BYTES, Child, Output, port_is_listening

DEADLINE = 20.0
STUBBORN_FAMILY = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if child:
    print(f"ready {child}", flush=True)
time.sleep(60)
"""
"""A process that ignores a polite request to stop, with a child that does so, too."""


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def is_running(pid: int) -> bool:
    """Whether a process exists and is not a zombie that waits for its parent."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_stubborn_target_and_its_children_are_killed(tmp_path: Path) -> None:
    """A target that ignores the request to stop is killed with everything that it started."""
    child = Child(python(STUBBORN_FAMILY), tmp_path)
    assert child.wait_until(lambda: child.output.has_line(re.compile(r"ready \d+$")), DEADLINE)
    grandchild = int(child.output.since().split()[1])

    child.stop(0.1)

    assert child.exit_status == -9
    deadline = time.monotonic() + DEADLINE
    while is_running(grandchild) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_running(grandchild)


def test_polite_target_ends_by_itself(tmp_path: Path) -> None:
    """A target that heeds the request to stop may finish its work and say so."""
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('bye'), sys.exit(0)))\n"
        "print('ready')\n"
        "time.sleep(60)"
    )
    child = Child(python(code), tmp_path)
    assert child.wait_until(lambda: child.output.has_line(re.compile("ready")), DEADLINE)

    child.stop(DEADLINE)

    assert child.exit_status == 0
    assert child.output.since() == "ready\nbye\n"


def test_output_has_both_streams_and_the_folder_is_the_working_directory(tmp_path: Path) -> None:
    """Standard output and error are kept together; the command runs where it was told."""
    child = Child(python("import os, sys; print(os.getcwd()); sys.exit('broken')"), tmp_path)
    with child:
        child.wait(DEADLINE)

    assert child.exit_status == 1
    assert f"{tmp_path.resolve()}\nbroken\n" == child.output.since()


def test_output_is_kept_up_to_a_limit() -> None:
    """The end of a long output is kept, and marks still point to the right place in it."""
    output = Output()
    output.append(b"x" * KEPT_BYTES)
    mark = output.mark()
    output.append(b"the end")

    assert output.since(mark) == "the end"
    assert len(output.since()) == KEPT_BYTES


def test_command_that_does_not_exist_could_not_be_tested(tmp_path: Path) -> None:
    """A command that cannot be started is named."""
    with pytest.raises(CouldNotTest, match=r"cannot be started: no-such-command-here: No such file"):
        Child(("no-such-command-here",), tmp_path)


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_listening_port_is_seen_without_connecting(family: socket.AddressFamily, host: str) -> None:
    """A port counts as listening only while somebody listens, and who looks is not noticed."""
    with socket.socket(family) as bound:
        try:
            bound.bind((host, 0))
        except OSError:
            pytest.skip(f"no {family.name} here")
        port = bound.getsockname()[1]
        before = port_is_listening(port)
        bound.listen()
        during = port_is_listening(port)
        bound.setblocking(False)
        with pytest.raises(BlockingIOError):
            bound.accept()
    after = port_is_listening(port)

    assert [before, during, after] == [False, True, False]


def test_scripts_of_the_running_interpreter_are_found(tmp_path: Path) -> None:
    """A target's command is looked for beside the running Python first, as in an active environment."""
    child = Child(python("import os; print(os.environ['PATH'])"), tmp_path)
    with child:
        child.wait(DEADLINE)

    assert str(Path(sys.executable).parent) == child.output.since().split(os.pathsep)[0]
