"""The text registry: what a line may be, what disables one, and what happens when the file changes."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import fota_fixtures
from fota_protocol.identity import McuidFormat
from fota_protocol.server import Handshake
from fota_server.errors import RegistryError
from fota_server.registry import Problem, RegistryEntry, SqliteRegistry, TextRegistry, open_registry
from fota_server.registry import text as text_module

FIRST = "0001100023593110965955141"
SECOND = "0011000235931109659550002"
THIRD = "0011000235931109659550003"


def registry(folder: Path, content: bytes | str, mcuid_format: McuidFormat | None = None) -> TextRegistry:
    path = folder / "devices2update.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return TextRegistry(path, mcuid_format=mcuid_format)


def rename_over(path: Path, content: str) -> None:
    """Put a file in place in one step, as careful programs do, a moment after it was written."""
    new = path.with_suffix(".new")
    new.write_text(content)
    os.utime(new, ns=(0, new.stat().st_mtime_ns - 1_000_000_000))  # files' clocks tick slowly
    new.replace(path)


def write_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that may be half written is ever still for long enough, however slow the machine is."""
    monkeypatch.setattr(text_module, "SETTLE", 3600.0)
    monkeypatch.setattr(text_module, "SETTLE_LIMIT", 3600.0)


def test_the_reference_servers_line_is_understood(tmp_path: Path) -> None:
    """The line of the reference documentation means what it meant."""
    entry = registry(tmp_path, f"{FIRST},AN2295_TWR_K60.S19,16\n").find(FIRST)

    assert RegistryEntry(FIRST, "AN2295_TWR_K60.S19", "16") == entry


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(f"  {FIRST}\t,  a.s19 ,  16  \n", id="white space"),
        pytest.param(f"# devices\n\n   # more\n{FIRST},a.s19,16 # of the lab\n\n", id="comments and blank lines"),
        pytest.param(f"\ufeff{FIRST},a.s19,16\n", id="byte order mark"),
        pytest.param(f"\r\n{FIRST},a.s19,16\r\n", id="CRLF"),
        pytest.param(f"{FIRST},a.s19,16", id="no final line end"),
        pytest.param(f"{FIRST},a.s19,16\r", id="CR"),
    ],
)
def test_layout_is_free(tmp_path: Path, content: str) -> None:
    """White space, comments, line ends and a byte order mark change nothing."""
    devices = registry(tmp_path, content)

    assert RegistryEntry(FIRST, "a.s19", "16") == devices.find(FIRST)
    assert devices.problems == ()
    assert len(devices) == 1


def test_an_empty_registry_knows_nobody(tmp_path: Path) -> None:
    """A file without a line is a registry without a device."""
    devices = registry(tmp_path, b"")

    assert (devices.find(FIRST), len(devices), devices.problems) == (None, 0, ())


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("part=MK60DN512", {"part": "MK60DN512"}),
        ("part=TWR-K60F120M", {"part": "MK60FN1M0"}),
        ("part = mk60dn512", {"part": "MK60DN512"}),
        ("handshake=wait", {"handshake": Handshake.WAIT}),
        ("handshake=immediate", {"handshake": Handshake.IMMEDIATE}),
        ("handshake=auto", {"handshake": Handshake.AUTO}),
        ("pack", {"pack": True}),
        ("pack=yes", {"pack": True}),
        ("once", {"once": True}),
        ("once=1 , pack = true, part=MK60FN1M0", {"once": True, "pack": True, "part": "MK60FN1M0"}),
    ],
)
def test_optional_fields_are_understood(tmp_path: Path, fields: str, expected: dict[str, object]) -> None:
    """Each further field sets what it names, in any order."""
    entry = registry(tmp_path, f"{FIRST},a.s19,16,{fields}\n").find(FIRST)

    assert entry is not None
    assert expected == {name: getattr(entry, name) for name in expected}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (SECOND, f"'{SECOND}', expected MCUID,filename,version"),
        (f"{SECOND},a.s19", "expected MCUID,filename,version"),
        (f"{SECOND};a.s19;16", "expected MCUID,filename,version"),
        (f"{SECOND},,16", "no file name"),
        (f"{SECOND},a.s19,", "version '', expected 1 or 2 hexadecimal digits"),
        (f"{SECOND},a.s19,1G", "version '1G'"),
        ("xyz,a.s19,16", "MCUID 'xyz', expected"),
        (",a.s19,16", "MCUID '', expected"),
        (f"{SECOND},a.s19,16,colour=red", "unknown field 'colour', expected part=, handshake=, pack or once"),
        (f"{SECOND},a.s19,16,", "unknown field ''"),
        (f"{SECOND},a.s19,16,part=", "unknown part ''"),
        (f"{SECOND},a.s19,16,handshake=perhaps", "handshake 'perhaps', expected wait, immediate or auto"),
        (f"{SECOND},a.s19,16,once=no", "once=no, expected just 'once'"),
        (f"{FIRST},b.s19,16", f"MCUID {FIRST} again, it stands in line 1 already"),
    ],
)
def test_a_malformed_line_disables_only_itself(tmp_path: Path, line: str, message: str) -> None:
    """A bad line is reported by its number and reason; lines before and behind it are in force."""
    third = "0011000235931109659550003"
    devices = registry(tmp_path, f"{FIRST},a.s19,16\n{line}\n{third},a.s19,16\n")
    (problem,) = devices.problems

    assert problem.line == 2
    assert message in problem.message
    assert {RegistryEntry(FIRST, "a.s19", "16"), RegistryEntry(third, "a.s19", "16")} == set(devices)


REGISTRIES = [fixture for fixture in fota_fixtures.manifest() if fixture.folder == "registries"]


@pytest.mark.parametrize("fixture", REGISTRIES, ids=[fixture.name for fixture in REGISTRIES])
def test_every_fixture_is_read_as_its_manifest_says(fixture: fota_fixtures.Fixture) -> None:
    """The lines that are reported are those that the manifest knows to be malformed."""
    wanted = McuidFormat.HEX if fixture.name == "hex_mcuids.txt" else McuidFormat.DECIMAL25
    expected = [finding.line for finding in fixture.findings if finding.stage is fota_fixtures.Stage.READING]
    problems = TextRegistry(fixture.path, mcuid_format=wanted).problems

    assert expected == [problem.line for problem in problems]


def test_a_line_that_is_not_utf8_disables_only_itself(tmp_path: Path) -> None:
    """A file name in Latin-1 would be looked for under another name, so its line is malformed."""
    devices = registry(tmp_path, f"{FIRST},a.s19,16\n".encode() + f"{SECOND},bl\xefnk.s19,16\n".encode("latin-1"))

    assert [Problem(2, "b'0011000235931109659550002,bl\\xefnk.s19,16', expected UTF-8")] == list(devices.problems)
    assert devices.find(FIRST) is not None


def test_lines_are_counted_as_editors_count_them(tmp_path: Path) -> None:
    """A form feed or a Unicode line separator in a comment does not shift the numbers."""
    devices = registry(tmp_path, "# a\x0cb\u2028c\x85d\nbad line\n")

    assert [problem.line for problem in devices.problems] == [2]


@pytest.mark.parametrize(
    ("mcuid", "mcuid_format"),
    [
        ("00110002359311096595500", McuidFormat.DECIMAL25),
        ("001100023593110965955000600", McuidFormat.DECIMAL25),
        ("001100023593110965955ABCD", McuidFormat.DECIMAL25),
        ("0" * 65, McuidFormat.HEX),
    ],
)
def test_an_mcuid_that_no_device_can_send_is_reported(tmp_path: Path, mcuid: str, mcuid_format: McuidFormat) -> None:
    """A line that could never match is malformed, so that nobody wonders why its device is refused."""
    (problem,) = registry(tmp_path, f"{mcuid},a.s19,16\n", mcuid_format).problems

    assert problem.line == 1
    assert f"MCUID {mcuid!r}, expected" in problem.message


def test_a_change_is_reported_and_in_force_at_once(tmp_path: Path) -> None:
    """A new device is known and a removed one unknown as soon as the file says so."""
    devices = registry(tmp_path, f"{FIRST},a.s19,16\n")
    rename_over(tmp_path / "devices2update.txt", f"{SECOND},longer_name.s19,17\nbad\n")

    assert (devices.find(FIRST), devices.find(SECOND)) == (None, RegistryEntry(SECOND, "longer_name.s19", "17"))
    assert [problem.line for problem in devices.problems] == [2]


def test_a_large_file_is_read_beside_whoever_looks_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The look-up that finds a large change does not wait for it; what it says is in force soon after."""
    monkeypatch.setattr(text_module, "INLINE_SIZE", 100)
    devices = registry(tmp_path, f"{FIRST},a.s19,16\n")
    others = [f"{number:025d},a.s19,16\n" for number in range(50_000)]
    (tmp_path / "devices2update.txt").write_text("".join(others) + f"{SECOND},b.s19,17\n")
    at_once = devices.find(FIRST)
    limit = time.monotonic() + 30
    while devices.find(SECOND) is None:
        assert time.monotonic() < limit
        time.sleep(0.01)

    assert RegistryEntry(FIRST, "a.s19", "16") == at_once
    assert devices.find(FIRST) is None
    assert len(devices) == 50_001


def test_closing_ends_a_reader_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a large file at the end, and no thread stays."""
    monkeypatch.setattr(text_module, "INLINE_SIZE", 100)
    monkeypatch.setattr(text_module, "_BREATH_S", 1.0)  # minutes for the whole
    devices = registry(tmp_path, f"{FIRST},a.s19,16\n")
    (tmp_path / "devices2update.txt").write_text("".join(f"{n:025d},a.s19,16\n" for n in range(50_000)))
    before = set(threading.enumerate())
    devices.find(FIRST)
    (reader,) = set(threading.enumerate()) - before
    devices.close()
    reader.join(30)

    assert not reader.is_alive()


@pytest.mark.parametrize(
    "half",
    [
        "",
        f"{SECOND},a.s19,16\n{THIRD},b",
        f"{SECOND},a.s19,1",
        f"{SECOND},a.s19,1A",
        f"{FIRST},a.s19,16\n",
        f"{FIRST},a.s19,16\n{SECOND},\n",
    ],
    ids=["empty", "in a line", "in a version", "before a field", "before a line", "malformed"],
)
def test_a_file_that_is_being_written_is_not_in_force_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: str
) -> None:
    """An editor that writes in place costs no device its place or a digit; what stays so for a while is meant."""
    write_slowly(monkeypatch)
    devices = registry(tmp_path, f"{SECOND},a.s19,1A,part=MK60DN512\n")
    known = devices.find(SECOND)
    (tmp_path / "devices2update.txt").write_text(half)
    while_written = devices.find(SECOND)
    monkeypatch.setattr(text_module, "SETTLE", 0.0)
    settled = devices.find(SECOND)

    assert known is not None
    assert known == while_written
    assert known != settled


@pytest.mark.parametrize("is_new", [False, True], ids=["in place", "anew"])
def test_every_moment_of_writing_is_as_before_or_as_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_new: bool
) -> None:
    """Wherever the writer is interrupted, a device has its old entry or its new one, and nothing between them.

    Editors rename the old file away, scripts delete it: a new one is then written as any other.
    """
    write_slowly(monkeypatch)
    before = f"{FIRST},a.s19,1A\n{SECOND},b.s19,2B,once\n"
    after = f"{SECOND},new.s19,3C,once\n{FIRST},new.s19,4D,pack\n{THIRD},c.s19,5E\n"
    old, new = ({entry.mcuid: entry for entry in registry(tmp_path, text)} for text in (before, after))
    for cut in range(len(after)):
        path = tmp_path / f"{cut}.txt"
        path.write_text(before)
        devices = TextRegistry(path)
        if is_new:
            path.rename(tmp_path / "kept")
            assert old.get(FIRST) == devices.find(FIRST)
        with path.open("w") as file:
            file.write(after[:cut])
        for mcuid in (FIRST, SECOND, THIRD):
            assert devices.find(mcuid) in (old.get(mcuid), new[mcuid]), (cut, mcuid)


@pytest.mark.parametrize("content", ["", f"{FIRST},a.s19,1"], ids=["empty", "no final line end"])
def test_a_file_that_was_put_in_place_whole_counts_at_once(tmp_path: Path, content: str) -> None:
    """What was finished before it got its name is not half of anything."""
    devices = registry(tmp_path, f"{SECOND},a.s19,16\n")
    new = tmp_path / "new"
    new.write_text(content)
    os.utime(new, ns=(0, new.stat().st_mtime_ns - 1_000_000_000))  # files' clocks tick slowly
    new.replace(tmp_path / "devices2update.txt")

    assert devices.find(SECOND) is None


def test_a_line_that_is_added_in_place_counts_at_once(tmp_path: Path) -> None:
    """`echo … >>` takes nothing away."""
    devices = registry(tmp_path, f"{FIRST},a.s19,16\n")
    with (tmp_path / "devices2update.txt").open("a") as file:
        file.write(f"{SECOND},b.s19,17\n")

    assert RegistryEntry(SECOND, "b.s19", "17") == devices.find(SECOND)


def test_a_time_in_the_future_puts_nothing_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What looks half written counts from when it was seen, not from what its time says."""
    devices = registry(tmp_path, f"{SECOND},a.s19,16\n")
    path = tmp_path / "devices2update.txt"
    path.write_text(f"{FIRST},a.s19,16\nbad")
    os.utime(path, (time.time() + 3600,) * 2)
    at_first = devices.find(SECOND)
    monkeypatch.setattr(text_module, "SETTLE", 0.0)

    assert at_first is not None
    assert devices.find(SECOND) is None


def test_somebody_who_writes_all_the_time_puts_nothing_off_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What looks half written waits from its beginning, also when it never rests."""
    write_slowly(monkeypatch)
    devices = registry(tmp_path, f"{FIRST},a.s19,16\n{SECOND},a.s19,16\n")
    path = tmp_path / "devices2update.txt"
    path.write_text(f"{FIRST},a.s19,16\n")
    at_first = devices.find(SECOND)
    with path.open("a") as file:
        file.write(f"{THIRD},c.s19,3\n")
    later = devices.find(SECOND)
    with path.open("a") as file:
        file.write("# more\n")
    monkeypatch.setattr(text_module, "SETTLE_LIMIT", 0.0)

    assert at_first is not None
    assert at_first == later
    assert devices.find(SECOND) is None
    assert devices.find(THIRD) is not None


@pytest.mark.parametrize("change", ["put", "remove"])
def test_what_a_program_of_ours_changes_counts_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Its file is never taken for half written, not even where the last of it was written in the same tick."""
    write_slowly(monkeypatch)
    devices = registry(tmp_path, f"{FIRST},a.s19,16\n{SECOND},a.s19,16")
    other = TextRegistry(tmp_path / "devices2update.txt")
    if change == "remove":
        other.remove([FIRST])
    else:
        other.put([RegistryEntry(SECOND, "b.s19", "17")])

    assert set(other) == set(devices)
    assert (change == "put") == (devices.find(FIRST) is not None)


def test_writing_keeps_what_it_is_not_about(tmp_path: Path) -> None:
    """Comments, blank lines, order, malformed lines, line ends and the file's mode stay."""
    devices = registry(tmp_path, f"\ufeff# the lab\r\n\r\n{FIRST}, a.s19 , 16  # my desk\r\nbad\r\n{THIRD},c.s19,3")
    path = tmp_path / "devices2update.txt"
    path.chmod(0o640)
    devices.put([RegistryEntry(FIRST, "b.s19", "17", once=True), RegistryEntry(SECOND, "a.s19", "1")])
    devices.remove([THIRD])

    expected = f"\ufeff# the lab\r\n\r\n{FIRST},b.s19,17,once  # my desk\r\nbad\r\n{SECOND},a.s19,1\r\n"
    assert expected == path.read_bytes().decode()
    assert 0o640 == path.stat().st_mode & 0o777


def test_writing_mends_malformed_lines_of_the_device(tmp_path: Path) -> None:
    """A line of the device that said nothing says what was put; removing takes repetitions too."""
    devices = registry(tmp_path, f"{FIRST},,16\n{SECOND},a.s19,16\n{SECOND},b.s19,17\n")
    devices.put([RegistryEntry(FIRST, "a.s19", "16")])
    devices.remove([SECOND])

    assert f"{FIRST},a.s19,16\n" == (tmp_path / "devices2update.txt").read_text()
    assert devices.problems == ()


def test_every_line_keeps_its_own_end(tmp_path: Path) -> None:
    """A change touches the lines that it is about and no other, whatever mixture of line ends there is."""
    devices = registry(tmp_path, f"# a\r\n{FIRST},a.s19,16\n{SECOND},a.s19,16\r# b\n\n{THIRD},c.s19,3")
    devices.put([RegistryEntry(SECOND, "b.s19", "17"), RegistryEntry("1" * 25, "d.s19", "1")])
    devices.remove([FIRST])

    expected = f"# a\r\n{SECOND},b.s19,17\r# b\n\n{THIRD},c.s19,3\r\n{'1' * 25},d.s19,1\r\n"
    assert expected == (tmp_path / "devices2update.txt").read_bytes().decode()


def test_what_an_editor_saves_meanwhile_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An editor takes no lock; its file is read, and changed, instead."""
    devices = registry(tmp_path, f"{FIRST},a.s19,16\n")
    path = tmp_path / "devices2update.txt"
    fsync = os.fsync

    def save(descriptor: int) -> None:
        fsync(descriptor)
        if THIRD not in path.read_text():
            path.write_text(f"{FIRST},a.s19,16\n{THIRD},c.s19,3\n")

    monkeypatch.setattr(os, "fsync", save)
    devices.put([RegistryEntry(SECOND, "b.s19", "17")])

    assert f"{FIRST},a.s19,16\n{THIRD},c.s19,3\n{SECOND},b.s19,17\n" == path.read_text()


def test_a_file_that_never_rests_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who writes all the time is not overwritten; that is an error, and nothing is left behind."""
    devices = registry(tmp_path, f"{FIRST},a.s19,16\n")
    path = tmp_path / "devices2update.txt"

    def save(descriptor: int) -> None:
        with path.open("a") as file:
            file.write("# more\n")

    monkeypatch.setattr(os, "fsync", save)
    with pytest.raises(RegistryError, match="changed by somebody else all the time; nothing is written"):
        devices.put([RegistryEntry(SECOND, "b.s19", "17")])
    assert SECOND not in path.read_text()
    assert [path] == list(tmp_path.iterdir())


def test_a_registry_does_not_grow_beyond_what_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written that no server would take."""
    devices = registry(tmp_path, f"{FIRST},a.s19,16\n")
    monkeypatch.setattr(text_module, "MAX_SIZE", 64)

    with pytest.raises(RegistryError, match="70 bytes, expected at most 64"):
        devices.put([RegistryEntry(SECOND, "a.s19", "16")])
    assert f"{FIRST},a.s19,16\n" == (tmp_path / "devices2update.txt").read_text()


def test_an_sqlite_file_in_its_place_is_told(tmp_path: Path) -> None:
    """It is not taken for a text in which every line is malformed."""
    devices = registry(tmp_path, f"{FIRST},a.s19,16\n")
    SqliteRegistry(tmp_path / "new").close()
    (tmp_path / "new").replace(tmp_path / "devices2update.txt")

    assert devices.find(FIRST) is not None
    assert "an SQLite file, expected a text" in devices.problems[0].message


def test_trouble_with_a_large_file_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is tried again the trouble stays what it was: nobody logs it a second time."""
    monkeypatch.setattr(text_module, "INLINE_SIZE", 100)
    devices = registry(tmp_path, f"{FIRST},a.s19,16\n")
    monkeypatch.setattr(text_module, "MAX_SIZE", 1000)
    rename_over(tmp_path / "devices2update.txt", "#" * 1001)
    limit = time.monotonic() + 30
    while not devices.problems:
        assert time.monotonic() < limit
        time.sleep(0.01)
    later = set()
    for _ in range(100):
        time.sleep(0.002)
        later.add(devices.problems)

    assert 1 == len(later)
    assert "1001 bytes, expected at most 1000" in later.pop()[0].message


def test_a_file_that_was_refused_is_tried_again_after_a_while_or_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then it is not read, which might be long, and its trouble stays; a good one counts at once."""
    monkeypatch.setattr(text_module, "RETRY_INTERVAL", 3600.0)
    devices = registry(tmp_path, f"{FIRST},a.s19,16\n")
    path = tmp_path / "devices2update.txt"
    SqliteRegistry(tmp_path / "new").close()
    (tmp_path / "new").replace(path)
    readings = 0
    read = TextRegistry._read

    def count(*args: Any) -> Any:
        nonlocal readings
        readings += 1
        return read(*args)

    monkeypatch.setattr(TextRegistry, "_read", count)
    problems, at_first = {devices.problems for _ in range(10)}, readings
    rename_over(path, f"{SECOND},a.s19,16\n")

    assert 1 == len(problems)
    assert 1 == at_first
    assert devices.find(SECOND) is not None
    assert () == devices.problems


def test_trouble_is_told_without_the_registrys_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever logs it says the name himself."""
    devices = registry(tmp_path, f"{FIRST},a.s19,16\n")
    monkeypatch.setattr(text_module, "MAX_SIZE", 64)
    rename_over(tmp_path / "devices2update.txt", "#" * 65)

    expected = "cannot be read again (65 bytes, expected at most 64); what was read last is in force"
    assert (Problem(0, expected),) == devices.problems


@pytest.mark.parametrize("name", ["a,b.s19", "a#b.s19", "a\nb.s19", " a.s19", "a.s19\t", "a\udc80.s19"])
def test_a_name_that_a_line_cannot_say_is_not_written(tmp_path: Path, name: str) -> None:
    """Nothing is written that would be read otherwise."""
    devices = registry(tmp_path, f"{FIRST},a.s19,16\n")

    with pytest.raises(RegistryError, match=f"^file name .* of {SECOND}: expected one that a text registry can say"):
        devices.put([RegistryEntry(SECOND, name, "16")])
    assert f"{FIRST},a.s19,16\n" == (tmp_path / "devices2update.txt").read_text()
    assert ["devices2update.txt"] == [path.name for path in tmp_path.iterdir()]


def test_several_processes_write_and_nothing_is_lost(tmp_path: Path) -> None:
    """Changes of two programs at once are both there afterwards."""
    registry(tmp_path, "")
    path = tmp_path / "devices2update.txt"
    script = (
        "import pathlib, sys\n"
        "from fota_server.registry import RegistryEntry, TextRegistry\n"
        "for number in range(20):\n"
        "    TextRegistry(pathlib.Path(sys.argv[1])).put("
        "[RegistryEntry(f'{int(sys.argv[2]) + number:025d}', 'a.s19', '16')])\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", script, str(path), str(start)]) for start in (100, 200)]

    assert [0, 0] == [writer.wait(30) for writer in writers]
    assert 40 == len(TextRegistry(path))


def test_a_vanished_file_leaves_its_devices_in_force(tmp_path: Path) -> None:
    """While the file is away its last content counts, and the trouble is told; when it is back all is well."""
    devices = registry(tmp_path, f"{FIRST},a.s19,16\n")
    path, away = tmp_path / "devices2update.txt", tmp_path / "away"
    path.rename(away)
    found = devices.find(FIRST)
    (problem,) = devices.problems
    away.rename(path)

    assert RegistryEntry(FIRST, "a.s19", "16") == found
    assert Problem(0, "cannot be read again (No such file or directory); what was read last is in force") == problem
    assert devices.problems == ()


def test_a_file_that_became_a_folder_leaves_its_devices_in_force(tmp_path: Path) -> None:
    """So it is when something unreadable stands in the file's place."""
    devices = registry(tmp_path, f"{FIRST},a.s19,16\n")
    (tmp_path / "devices2update.txt").unlink()
    (tmp_path / "devices2update.txt").mkdir()

    assert devices.find(FIRST) is not None
    assert [problem.line for problem in devices.problems] == [0]


def test_a_file_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit holds at the start, as an error, and later, as a problem."""
    devices = registry(tmp_path, f"{FIRST},a.s19,16\n")
    monkeypatch.setattr(text_module, "MAX_SIZE", 64)
    (tmp_path / "devices2update.txt").write_text("#" * 65)

    assert devices.find(FIRST) is not None
    assert "65 bytes, expected at most 64" in devices.problems[0].message
    with pytest.raises(RegistryError, match="65 bytes, expected at most 64"):
        TextRegistry(tmp_path / "devices2update.txt")


def test_a_registry_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """A missing file, and a folder, are told by name and with what was expected."""
    with pytest.raises(RegistryError, match=r"none\.txt: No such file .* expected a text file with one"):
        open_registry(tmp_path / "none.txt")
    with pytest.raises(RegistryError, match="Is a directory"):
        open_registry(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_registry_is_an_error(tmp_path: Path) -> None:
    """Missing permission is told as such."""
    path = tmp_path / "devices2update.txt"
    path.touch(mode=0)

    with pytest.raises(RegistryError, match="Permission denied"):
        open_registry(path)
