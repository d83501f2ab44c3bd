"""Ctrl-C at any moment of a command's life: the exit code that is documented, and never a traceback."""

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from fota_cli import exit_codes, interrupts

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to a child there")

PATIENCE: Final = 60.0
MOMENTS: Final = 8
"""How often each command is interrupted, at moments that chance picks: early ones more often, where most happens."""

PROCESS: Final = """
import os, sys
from fota_cli import interrupts
interrupts.begin()
os.write(1, b"begun\\n")
from fota_cli.__main__ import main
sys.exit(main())
"""
"""What `fota` does from its first line on, and says when that was: until then, an interrupt is Python's own."""


ENVIRONMENT: Final = {name: value for name, value in os.environ.items() if name != "COVERAGE_PROCESS_CONFIG"}
"""Not measured: an interrupt within coverage's own code may leave its lock locked, and then nothing ends any more."""


@pytest.fixture
def address() -> Iterator[str]:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def options_of(command: str, address: str, folder: Path) -> list[str]:
    """A run of the command that ends when it is told to, and not before."""
    match command:
        case "serve":
            (folder / "devices.txt").write_text("0001000000000000000000000,a.s19,01\n")
            (folder / "bin").mkdir(exist_ok=True)
            files = ["--registry", "devices.txt", "--firmware", "bin", "--logs", "logs"]
            return ["--host", "127.0.0.1", "--port", "0", *files]
        case "board":
            return ["--pty", "board"]
        case "powercut":
            return ["--jobs", "2"]
        case "mcu":
            return ["--server", address, "--mcuid", "0001000000000000000000000"]
        case _:
            return ["--server", address, "--count", "50", "--plain"]


@pytest.mark.parametrize(
    ("command", "ends_well"),
    [("swarm", False), ("mcu", False), ("powercut", False), ("serve", True), ("board", True)],
)
def test_interrupt_at_any_moment_is_an_exit_code_and_no_traceback(
    command: str, ends_well: bool, address: str, tmp_path: Path
) -> None:
    """While it is loaded, while it begins, while it runs: 130; what runs until it is told to end then ends well."""
    expected = {exit_codes.INTERRUPTED, exit_codes.OK} if ends_well else {exit_codes.INTERRUPTED}
    arguments = [command, *options_of(command, address, tmp_path)]
    for _ in range(MOMENTS):
        moment = random.random() ** 2
        print(f"fota {command}: interrupted after {moment:.4f} s")
        with subprocess.Popen(
            [sys.executable, "-c", PROCESS, *arguments],
            cwd=tmp_path,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            assert process.stdout is not None
            assert "begun\n" == process.stdout.readline()
            time.sleep(moment)
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the processes that it started hear it too
            _, printed = process.communicate(timeout=PATIENCE)

        assert process.returncode in expected, printed
        assert "Traceback" not in printed
        assert "Exception ignored" not in printed
        if process.returncode == exit_codes.INTERRUPTED:
            assert "fota: interrupted" in printed.splitlines()[-1]


def test_exit_code_is_that_of_the_documentation() -> None:
    """It is written down twice, since the one must not wait for the module of the other."""
    assert exit_codes.INTERRUPTED == interrupts.EXIT_CODE


@pytest.fixture
def handler() -> Iterator[None]:
    """SIGINT is this test's; afterwards it is whose it was."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("handler")
def test_ignored_interrupts_stay_ignored() -> None:
    """A shell has them ignored in what it runs in the background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    interrupts.begin()
    with interrupts.Raised():
        during = signal.getsignal(signal.SIGINT)

    assert signal.SIG_IGN == during == signal.getsignal(signal.SIGINT)


@pytest.mark.usefixtures("handler")
def test_interrupt_waits_for_the_end_of_what_must_not_be_torn() -> None:
    """An import is finished first; then it is what it would have been."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    done = []

    def import_something() -> None:
        with interrupts.Deferred():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("imported")

    with pytest.raises(KeyboardInterrupt):
        import_something()

    assert ["imported"] == done
    assert signal.default_int_handler is signal.getsignal(signal.SIGINT)


@pytest.mark.usefixtures("handler")
def test_interrupts_are_the_main_thread_s() -> None:
    """Another thread has none to wait for, and may import all the same."""
    done = []

    def import_something() -> None:
        with interrupts.Deferred(), interrupts.Sigterm():
            done.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=import_something)
    thread.start()
    thread.join()

    assert [signal.SIG_DFL] == done


@pytest.mark.usefixtures("handler")
@pytest.mark.parametrize("of_interrupts", [signal.default_int_handler, signal.SIG_IGN])
def test_sigterm_is_an_interrupt_for_whoever_wants_it(of_interrupts: Any) -> None:
    """Also in the background of a script, where interrupts are ignored; it waits for an import, too."""
    signal.signal(signal.SIGINT, of_interrupts)
    done = []

    def import_something() -> None:
        with interrupts.Sigterm(), interrupts.Deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("imported")

    with pytest.raises(KeyboardInterrupt):
        import_something()

    assert ["imported"] == done
    assert (signal.SIG_DFL, of_interrupts) == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))


@pytest.mark.usefixtures("handler")
def test_a_command_can_be_interrupted_in_order() -> None:
    """While it runs, an interrupt is an exception that it may clean up after."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupts.begin()

    with pytest.raises(KeyboardInterrupt), interrupts.Raised():
        os.kill(os.getpid(), signal.SIGINT)

    assert interrupts.end_at_once is signal.getsignal(signal.SIGINT)
