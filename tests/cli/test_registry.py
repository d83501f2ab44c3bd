"""`fota registry` as a process of its own: each action, on a text file and on SQLite, and what it says of bad input."""

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

import fota_fixtures
from fota_protocol.server import Handshake
from fota_server.registry import RegistryEntry, SqliteRegistry, open_registry

FIRST: Final = RegistryEntry("0001100023593110965955141", "blink_1.s19", "16")
SECOND: Final = RegistryEntry(
    "0011000235931109659550002", "blink_2.s19", "1A", part="MK60DN512", handshake=Handshake.WAIT, pack=True, once=True
)


def fota(*arguments: object) -> subprocess.CompletedProcess[str]:
    """What `fota registry …` says."""
    command = [sys.executable, "-m", "fota_cli", "registry", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


@pytest.fixture(params=["devices2update.txt", "devices.sqlite"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A registry of two devices."""
    path: Path = tmp_path / request.param
    with closing(open_registry(path, may_be_missing=True)) as registry:
        registry.put([FIRST, SECOND])
    return path


def content(path: Path) -> set[RegistryEntry]:
    with closing(open_registry(path)) as registry:
        return set(registry)


def test_list_shows_every_device(path: Path) -> None:
    """One line for each device, with what is special about it, and their number."""
    done = fota("list", "--registry", path)

    assert [
        ["0001100023593110965955141", "blink_1.s19", "16", "-"],
        ["0011000235931109659550002", "blink_2.s19", "1A", "MK60DN512", "handshake=wait,", "pack,", "once"],
        ["2", "devices"],
    ] == [line.split() for line in done.stdout.splitlines()]
    assert (0, "") == (done.returncode, done.stderr)


def test_list_as_json_has_every_field(path: Path) -> None:
    """Programs read entries, and what is malformed, as JSON."""
    done = fota("list", "--registry", path, "--json")

    listed = json.loads(done.stdout)
    assert ["mcuid", "filename", "version", "part", "handshake", "pack", "once"] == list(listed["entries"][0])
    assert {"handshake": "wait", "pack": True, "part": "MK60DN512"}.items() <= listed["entries"][1].items()
    assert [] == listed["malformed"]


def test_list_names_malformed_lines_and_says_so(tmp_path: Path) -> None:
    """What disables a device is seen, without what would steer a terminal, and the exit code is 1."""
    path = tmp_path / "devices2update.txt"
    path.write_text(f"{FIRST.mcuid},a.s19,16\nbad\x1b[2Jline\n")
    done = fota("list", "--registry", path)

    assert 1 == done.returncode
    assert "MALFORMED" in done.stdout
    assert "line 2" in done.stdout
    assert "\x1b" not in done.stdout
    assert "1 devices, 1 malformed" in done.stdout


def test_an_empty_registry_lists_nothing(tmp_path: Path) -> None:
    """No device is no error."""
    (tmp_path / "devices2update.txt").touch()
    done = fota("list", "--registry", tmp_path / "devices2update.txt")

    assert (0, "0 devices\n") == (done.returncode, done.stdout)


def test_show_tells_of_one_device(path: Path) -> None:
    """In words and as JSON, whatever the case of the digits."""
    words, document = fota("show", SECOND.mcuid, "-db", path), fota("show", SECOND.mcuid, "-db", path, "--json")

    assert ["handshake", "wait"] in [line.split() for line in words.stdout.splitlines()]
    assert "blink_2.s19" == json.loads(document.stdout)["filename"]


def test_show_of_a_stranger_is_bad_input(path: Path) -> None:
    """An unknown device is told, with exit code 2."""
    done = fota("show", "9" * 25, "--registry", path)

    assert (2, f"fota: registry {path}: no device {'9' * 25}\n") == (done.returncode, done.stderr)


def test_add_adds_and_replaces_only_when_told(path: Path) -> None:
    """A device that is there is not changed by accident."""
    added = fota("add", "1" * 25, "new.s19", "a", "--part", "TWR-K60F120M", "--handshake", "auto", "-db", path)
    refused = fota("add", FIRST.mcuid, "new.s19", "1", "--registry", path)
    replaced = fota("add", FIRST.mcuid, "new.s19", "1", "--once", "--replace", "--registry", path)

    assert (0, 2, 0) == (added.returncode, refused.returncode, replaced.returncode)
    assert "is there already, expected --replace" in refused.stderr
    assert {
        RegistryEntry("1" * 25, "new.s19", "A", part="MK60FN1M0", handshake=Handshake.AUTO),
        RegistryEntry(FIRST.mcuid, "new.s19", "1", once=True),
        SECOND,
    } == content(path)


@pytest.mark.parametrize("name", ["new.txt", "new.sqlite"])
def test_add_makes_a_registry_where_there_is_none(tmp_path: Path, name: str) -> None:
    """The first device makes the file."""
    done = fota("add", FIRST.mcuid, FIRST.filename, FIRST.version, "--registry", tmp_path / name)

    assert (0, f"{tmp_path / name}: {FIRST.mcuid} added\n") == (done.returncode, done.stdout)
    assert {FIRST} == content(tmp_path / name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["add", "xyz", "a.s19", "1"], "MCUID 'xyz', expected"),
        (["add", "1" * 25, "a.s19", "100"], "version '100', expected"),
        (["add", "1" * 25, "a.s19", "1", "--part", "K61"], "unknown part 'K61'"),
        (["remove", FIRST.mcuid, "9" * 25], f"no device {'9' * 25}; nothing is removed"),
        (["import", "none.txt"], "none.txt: No such file or directory"),
        (["export", "none/here.txt"], "cannot write none/here.txt"),
    ],
)
def test_bad_input_changes_nothing(path: Path, arguments: list[str], message: str) -> None:
    """One line says what was expected, the exit code is 2, and the registry is as it was."""
    before = content(path)
    done = fota(*arguments, "--registry", path)

    assert (2, 1) == (done.returncode, done.stderr.count("\n"))
    assert message in done.stderr
    assert before == content(path)


def test_remove_removes(path: Path) -> None:
    """The device is gone, the other is not."""
    done = fota("remove", FIRST.mcuid, "--registry", path)

    assert (0, f"{path}: 1 removed\n") == (done.returncode, done.stdout)
    assert {SECOND} == content(path)


def test_the_reference_servers_file_goes_both_ways(tmp_path: Path) -> None:
    """Its registry becomes SQLite and comes back as it was, byte for byte."""
    seed, there, back = fota_fixtures.path("seed_line.txt"), tmp_path / "devices.sqlite", tmp_path / "back.txt"
    imported = fota("import", seed, "--registry", there)
    exported = fota("export", back, "--registry", there, "--plain")

    assert ("1 added, 0 replaced", "1 devices") == tuple(
        done.stdout.strip().partition(": ")[2] for done in (imported, exported)
    )
    assert seed.read_bytes() == back.read_bytes()


def test_export_and_import_keep_every_field(path: Path, tmp_path: Path) -> None:
    """Text to SQLite to text loses nothing."""
    for name in ("one.sqlite", "two.txt"):
        fota("export", tmp_path / name, "--registry", path)
    done = fota("import", tmp_path / "two.txt", "--registry", tmp_path / "one.sqlite")

    assert "0 added, 2 replaced" in done.stdout
    assert {FIRST, SECOND} == content(tmp_path / "one.sqlite") == content(tmp_path / "two.txt")


def test_plain_export_says_what_is_lost(path: Path, tmp_path: Path) -> None:
    """The reference server ends at a fourth field, so none is written, and nobody is left in the dark."""
    done = fota("export", tmp_path / "seed.txt", "--plain", "--registry", path)

    assert "2 devices; 1 of them lost fields that the reference server has not" in done.stdout
    assert f"{SECOND.mcuid},blink_2.s19,1A\n" in (tmp_path / "seed.txt").read_text()


def test_malformed_entries_stop_an_import_unless_told(tmp_path: Path) -> None:
    """Nothing is written before somebody has seen what would be left out."""
    source, target = tmp_path / "source.txt", tmp_path / "devices.sqlite"
    source.write_text(f"{FIRST.mcuid},blink_1.s19,16\nbad line\n")
    refused = fota("import", source, "--registry", target)
    was_made = target.exists()
    skipped = fota("import", source, "--registry", target, "--skip-malformed")

    assert (2, False, 0) == (refused.returncode, was_made, skipped.returncode)
    assert "line 2" in refused.stdout
    assert {FIRST} == content(target)


def test_a_malformed_row_can_be_replaced_and_removed(tmp_path: Path) -> None:
    """What nobody can be served from is no dead end."""
    path = tmp_path / "devices.sqlite"
    with closing(SqliteRegistry(path)) as registry, registry._change() as database:
        database.execute(f"INSERT INTO devices (mcuid, filename, version) VALUES ('{FIRST.mcuid}', '', '16')")
        database.execute(f"INSERT INTO devices (mcuid, filename, version) VALUES ('{SECOND.mcuid}', '', '16')")
    listed = fota("list", "--registry", path)
    replaced = fota("add", FIRST.mcuid, "blink_1.s19", "16", "--replace", "--registry", path)
    removed = fota("remove", SECOND.mcuid, "--registry", path)

    assert (1, 0, 0) == (listed.returncode, replaced.returncode, removed.returncode)
    assert {FIRST} == content(path)


def test_one_file_is_not_its_own_source(path: Path) -> None:
    """Neither import nor export goes from a file to itself."""
    done = fota("import", path, "--registry", path), fota("export", path, "--registry", path)

    assert [2, 2] == [one.returncode for one in done]
    assert all("one file" in one.stderr for one in done)


def test_an_export_overwrites_no_database(path: Path, tmp_path: Path) -> None:
    """A server may have it open; import adds to it."""
    target = tmp_path / "there.sqlite"
    SqliteRegistry(target).close()
    done = [fota("export", target, "--registry", path, *options) for options in ((), ("--plain",))]

    assert [2, 2] == [one.returncode for one in done]
    assert all("is there already" in one.stderr for one in done)
    assert set() == content(target)


def test_looking_changes_nothing(tmp_path: Path) -> None:
    """A database of somebody else's is not made a registry by being looked at."""
    path = tmp_path / "odd.sqlite"
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE mine (a)")
    before = path.read_bytes()
    done = [fota("list", "--registry", path), fota("show", FIRST.mcuid, "--registry", path)]

    assert [2, 2] == [one.returncode for one in done]
    assert "no such table: devices, expected an SQLite registry" in done[0].stderr
    assert before == path.read_bytes()


def test_one_of_several_adds_of_a_device_wins(path: Path) -> None:
    """Without --replace a device is added once, whoever tries at the same moment."""
    command = [sys.executable, "-m", "fota_cli", "registry", "add", "1" * 25, "a.s19", "1", "--registry", str(path)]
    adds = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(6)]
    codes = sorted((add.communicate(timeout=60), add.returncode)[1] for add in adds)

    assert [0, 2, 2, 2, 2, 2] == codes


@pytest.mark.parametrize("name", ["b\udcff.s19", "a" * 5000])
def test_a_name_that_is_no_text_is_a_message(path: Path, name: str) -> None:
    """One line or a device, and no traceback, whatever a registry is kept in."""
    done = fota("add", "1" * 25, name, "1", "--registry", path)

    assert "Traceback" not in done.stderr
    assert done.returncode == (2 if "\udcff" in name else 0)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_output_that_cannot_be_written_is_told(path: Path, unbuffered: str) -> None:
    """A full disk behind `>` is a message and exit code 2."""
    command = [sys.executable, "-m", "fota_cli", "registry", "list", "--registry", str(path)]
    with open("/dev/full", "wb") as full:
        env = os.environ | {"PYTHONUNBUFFERED": unbuffered}
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=env, check=False, timeout=30)

    assert (2, b"fota: cannot write standard output: No space left on device\n") == (done.returncode, done.stderr)


def test_a_command_without_standard_output_does_its_work(path: Path) -> None:
    """A daemon may start it so."""
    script = 'exec "$0" -m fota_cli registry add 77 a.s19 1 --registry "$1" >&-'
    done = subprocess.run(["sh", "-c", script, sys.executable, str(path)], capture_output=True, check=False, timeout=30)

    assert (0, b"") == (done.returncode, done.stderr)
    assert RegistryEntry("77", "a.s19", "1") in content(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
@pytest.mark.parametrize(
    "arguments",
    [["list"], ["show", "77"], ["add", "77", "a.s19", "1"], ["remove", "77"], ["export", "out.txt"]],
    ids=lambda arguments: arguments[0],
)
def test_a_pipe_is_no_registry(tmp_path: Path, arguments: list[str]) -> None:
    """Nobody waits for its other end, and no device is read without its first digits."""
    os.mkfifo(tmp_path / "pipe")
    done = fota(*arguments, "--registry", tmp_path / "pipe")

    assert (2, f"fota: registry {tmp_path / 'pipe'}: a pipe or a device, expected a file\n") == (
        done.returncode,
        done.stderr,
    )


def test_what_comes_by_a_pipe_is_not_imported(path: Path) -> None:
    """It can be read only once, and its kind would be seen by its first bytes."""
    command = [sys.executable, "-m", "fota_cli", "registry", "import", "/dev/stdin", "--registry", str(path)]
    done = subprocess.run(command, input=b"77,a.s19,1\n", capture_output=True, check=False, timeout=30)

    assert 2 == done.returncode
    assert b"a pipe or a device, expected a file" in done.stderr
    assert {FIRST, SECOND} == content(path)


def test_export_writes_into_a_pipe_and_leaves_it_one(path: Path) -> None:
    """`/dev/stdout` is written to, not replaced by a file."""
    done = fota("export", "/dev/stdout", "--registry", path, "--plain")

    assert 0 == done.returncode
    assert done.stdout.startswith(f"{FIRST.mcuid},blink_1.s19,16\n{SECOND.mcuid},blink_2.s19,1A\n")
    assert Path("/dev/stdout").is_symlink()


def test_export_through_a_link_leaves_it_one(path: Path, tmp_path: Path) -> None:
    """The file that the link leads to is written."""
    (tmp_path / "link.txt").symlink_to(tmp_path / "out.txt")
    fota("export", tmp_path / "link.txt", "--registry", path)

    assert (tmp_path / "link.txt").is_symlink()
    assert {FIRST, SECOND} == content(tmp_path / "out.txt")


def test_a_malformed_device_is_removed_and_replaced(tmp_path: Path) -> None:
    """What is wrong with a line keeps nobody from mending it."""
    path = tmp_path / "devices2update.txt"
    path.write_text(f"{FIRST.mcuid},,16\n{SECOND.mcuid},b.s19,XY\n")
    removed = fota("remove", FIRST.mcuid, "--registry", path)
    replaced = fota("add", SECOND.mcuid, "b.s19", "2", "--replace", "--registry", path)

    assert (0, 0) == (removed.returncode, replaced.returncode)
    assert f"{SECOND.mcuid},b.s19,2\n" == path.read_text()


def test_a_large_import_counts_what_it_replaced(tmp_path: Path) -> None:
    """The numbers are those of the change, however large the registry is."""
    path, source = tmp_path / "devices2update.txt", tmp_path / "source.txt"
    path.write_text("".join(f"{number:025d},a.s19,16\n" for number in range(3_000)))
    source.write_text("".join(f"{number:025d},b.s19,17\n" for number in range(1_000, 5_000)))
    done = fota("import", source, "--registry", path)

    assert f"{path}: 2,000 added, 2,000 replaced\n" == done.stdout
    assert 5_000 == len(content(path))
