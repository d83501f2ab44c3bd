"""Files that commands write: whole, or where somebody has them open already, on from there."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from fota_cli.files import write_file

pytestmark = pytest.mark.skipif(not Path("/dev/fd").exists(), reason="no /dev/fd: open files have no names")

LINE: Final = "0001000000000000000000000,a.s19,01\n"


def shell(command: str, folder: Path) -> str:
    """What `command` prints; in it, `$fota` is the program."""
    (folder / "devices.txt").write_text(LINE)
    done = subprocess.run(
        ["sh", "-ec", command],
        cwd=folder,
        env=os.environ | {"fota": f"{sys.executable} -m fota_cli", "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "out", "link"])
@pytest.mark.parametrize(
    ("redirection", "expected"),
    [
        (">> out", "one\n{export}three\n"),
        ("> out", "{export}three\n"),
        ("1<> out", "{export}three\n"),
    ],
)
def test_what_standard_output_goes_to_is_written_on(name: str, redirection: str, expected: str, tmp_path: Path) -> None:
    """By whatever name: what was there stays as the shell has it, and whoever writes next goes on behind."""
    (tmp_path / "link").symlink_to("/dev/stdout")

    shell(
        f"echo one > out; {{ $fota registry export {name} --registry devices.txt; echo three; }} {redirection}",
        tmp_path,
    )

    export = f"{LINE}{name}: 1 devices\n"
    assert expected.format(export=export) == (tmp_path / "out").read_text()


def test_trace_is_written_on_too(tmp_path: Path) -> None:
    """What is written bit by bit is no exception."""
    shell("echo one > out; $fota swarm --virtual --count 1 --plain --trace /dev/stdout >> out", tmp_path)

    lines = (tmp_path / "out").read_text().splitlines()
    assert ["one", "0001000000000000000000000"] == [lines[0], lines[1].split()[0]]
    assert any(line.startswith("1 of 1 updated") for line in lines)


def test_pipe_is_written_into(tmp_path: Path) -> None:
    """Nothing is made a file that was none."""
    printed = shell("$fota registry export /dev/stdout --registry devices.txt | cat", tmp_path)

    assert f"{LINE}/dev/stdout: 1 devices\n" == printed
    assert [tmp_path / "devices.txt"] == list(tmp_path.iterdir())


def test_descriptor_of_another_process_is_appended_to(tmp_path: Path) -> None:
    """Its file is not replaced under its hands."""
    if not Path("/proc/self/fd").exists():
        pytest.skip("no /proc: the open files of other processes have no names")
    shell(
        "exec 3>> out; echo one >&3; $fota registry export /proc/$$/fd/3 --registry devices.txt; echo three >&3",
        tmp_path,
    )

    assert "one\n" + LINE in (tmp_path / "out").read_text()


def test_file_that_nobody_has_open_is_replaced_and_a_link_to_it_stays(tmp_path: Path) -> None:
    """In one step, so that nobody ever reads half of it."""
    old, link = tmp_path / "old", tmp_path / "link"
    old.write_bytes(b"before")
    link.symlink_to("old")
    inode = old.stat().st_ino

    with old.open("rb") as reader:
        write_file(link, b"after")
        assert b"before" == reader.read()

    assert b"after" == old.read_bytes()
    assert link.is_symlink()
    assert inode != old.stat().st_ino
