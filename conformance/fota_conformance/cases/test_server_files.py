"""Registry and firmware: what cannot be served whole is refused, what is odd and legal is served.

A safety requirement is met by any refusal: `@0#`, `@0#` behind `@4#`, a mere close. What this project demands beyond
that, `@0#` in the place of `@4#`, has cases of its own.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from fota_conformance.errors import in_situation
from fota_conformance.exchange import Refusal
from fota_conformance.hosts import Place, Wanted
from fota_conformance.images import made
from fota_conformance.reporting import step
from fota_conformance.server_bench import ServerBench

CORRUPT: Final = (
    "bad_checksum.s19",
    "bad_digit.s19",
    "junk_line.s19",
    "not_text.s19",
    "reserved_type.s19",
    "short_count.s19",
    "over_long.s19",
    "trailing_characters.s19",
    "cut_at_record.s19",
)
"""Files with a line that is no record, or a record whose checksum, count or characters are wrong."""
INCOMPLETE: Final = ("no_termination.s19", "bad_count.s19", "data_after_termination.s19")
ODD: Final = (
    "descending.s19",
    "unaligned.s19",
    "long_records.s19",
    "overlapping_identical.s19",
    "s3_records.s19",
    "empty_s0.s19",
    "s9_after_s2.s19",
    "counted.s19",
)
UNSERVABLE: Final = {
    "no such file": Wanted("blink_1.s19", place=Place.NOWHERE),
    "a bad checksum": Wanted("bad_checksum.s19"),
    "no termination": Wanted("no_termination.s19"),
    "no data": Wanted("no_data.s19"),
    "a contradiction": Wanted("overlapping_different.s19"),
    "a file outside the folder": Wanted("blink_1.s19", place=Place.ABOVE),
    "a version of three digits": Wanted("blink_1.s19", "123"),
}
"""Why a device cannot be served."""
MALFORMED: Final = (
    "no entry at all",
    "0001200049152150965959999",
    "0001200049152150965959999,blink_1.s19",
    ",,",
    ",blink_1.s19,16",
    "0001200049152150965959999,,16",
    "0001200049152150965959999,blink_1.s19,",
    "00012000491521509659x9999,blink_1.s19,16",
    "0001200049152150965959999,blink_1.s19,sixteen",
    "0001200049152150965959999;blink_1.s19;16",
    "@0001200049152150965959999#",
    "Gerät 7,böse.s19,16",
    "," * 5000,
)
"""Lines that are no entry of a registry."""
SPACES: Final = ("{%d.mcuid}, {%d.file}, {%d.version}", "{%d.mcuid} ,{%d.file} ,{%d.version}", "\t {%d} \t", "{%d}\r")
"""A registry's line with white space behind the commas, before them, around it, and with a CR at its end."""


def each(names: tuple[str, ...]) -> pytest.MarkDecorator:
    """A variant for each image."""
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=pytest.mark.fota_devices(name), id=name) for name in names]
    )


@pytest.mark.fota_requirement("FOTA-FILE-missing")
@pytest.mark.fota_devices(Wanted("blink_1.s19", place=Place.NOWHERE), "blink_2.s19")
@pytest.mark.parametrize("is_first", [True, False], ids=["before another device", "behind another device"])
def test_a_device_whose_file_is_missing_is_refused(server: ServerBench, is_first: bool) -> None:
    """A device whose file does not exist is refused by `@0#`, and gets no record of another's file."""
    if not is_first:
        server.expect_update(server.devices[1], "before the device whose file is missing")
    situation = "after the identification of a device whose file does not exist"
    accepted = f"{Refusal.DENIED.value}, or {Refusal.LATE.value}"
    with server.session() as session:
        refusal = session.hear_refusal(situation)
        if refusal is Refusal.CLOSED:
            raise session.peer.failure(situation, came="a close without @0#", accepted=accepted)


@pytest.mark.fota_requirement("FOTA-FILE-corrupt-never-sent")
@each(CORRUPT)
def test_a_corrupt_file_is_never_sent(server: ServerBench, name: str) -> None:
    """No corrupt record of a file is sent, nor the valid ones around it as if they were the whole file."""
    lines = server.devices[0].content.count(b"\n")
    with server.session() as session:
        session.hear_refusal(f"after the identification of a device whose file is {name}", records=lines)


@pytest.mark.fota_requirement("FOTA-FILE-incomplete")
@each(INCOMPLETE)
def test_a_file_that_may_be_incomplete_is_refused(server: ServerBench, name: str) -> None:
    """A file without a termination, with a wrong record count, or that goes on behind its end is refused."""
    with server.session() as session:
        session.hear_refusal(f"after the identification of a device whose file is {name}")


@pytest.mark.fota_requirement("FOTA-FILE-contradiction")
@pytest.mark.fota_devices("overlapping_different.s19")
def test_a_file_that_contradicts_itself_is_refused(server: ServerBench) -> None:
    """A file whose records give different bytes for one address is refused."""
    with server.session() as session:
        session.hear_refusal("after the identification of a device whose file gives two bytes for one address")


@pytest.mark.fota_requirement("FOTA-FILE-no-data")
@each(("no_data.s19", "empty.s19"))
def test_a_file_without_data_is_refused(server: ServerBench, name: str) -> None:
    """A device whose file has no data record gets no end frame for nothing."""
    with server.session() as session:
        session.hear_refusal(f"after the identification of a device whose file is {name}")


@pytest.mark.fota_requirement("FOTA-FILE-refused-first")
@pytest.mark.parametrize(
    "why", [pytest.param(why, marks=pytest.mark.fota_devices(wanted), id=why) for why, wanted in UNSERVABLE.items()]
)
def test_a_refusal_comes_in_the_place_of_the_permission(server: ServerBench, why: str) -> None:
    """A device that cannot be served is refused by `@0#` in the place of `@4#`."""
    with server.session() as session:
        session.identify()
        session.expect_denied(f"after the identification of a device that cannot be served: {why}")


@pytest.mark.fota_requirement("FOTA-FILE-inside")
@pytest.mark.parametrize(
    "place",
    [
        pytest.param(place, marks=pytest.mark.fota_devices(Wanted("made-60", place=place)), id=name)
        for name, place in (("above", Place.ABOVE), ("absolute path", Place.ABSOLUTE), ("symbolic link", Place.LINK))
    ],
)
def test_no_file_outside_the_folder_is_served(server: ServerBench, place: Place) -> None:
    """A file outside the firmware folder is never served, whatever name the registry has for it."""
    with server.session() as session:
        session.hear_refusal(f"after the identification of a device whose file lies {place.value}")


@pytest.mark.fota_requirement("FOTA-FILE-odd-served")
@each(ODD)
def test_an_odd_file_is_served(server: ServerBench, name: str) -> None:
    """What is unusual and legal is served whole, in the file's order."""
    server.expect_update(None, f"where the device's file is {name}")


def replace(path: Path) -> None:
    """Another file takes the place, as a careful administrator has it."""
    other = path.with_suffix(".new")
    other.write_bytes(made(70).content)
    other.replace(path)


def overwrite(path: Path) -> None:
    """The same file gets other content."""
    path.write_bytes(made(70).content)


def truncate(path: Path) -> None:
    """The same file loses its content."""
    path.write_bytes(b"")


CHANGES: Final[dict[str, Callable[[Path], None]]] = {
    "replaced": replace,
    "overwritten": overwrite,
    "truncated": truncate,
    "removed": Path.unlink,
}
"""What happens to a file while it is served."""


@pytest.mark.fota_requirement("FOTA-FILE-immutable")
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(change, marks=pytest.mark.fota_devices(f"made-{71 + index}"), id=change)
        for index, change in enumerate(CHANGES)
    ],
)
def test_a_session_keeps_its_image(server: ServerBench, change: str) -> None:
    """The image of a session does not change behind `@4#`, whatever happens to its file."""
    with server.session(hurried=True) as session:
        session.begin()
        session.take(3)
        with step(f"the file is {change}"):
            CHANGES[change](server.host.firmware / session.device.file)
        with in_situation(f"after the file was {change}"):
            session.take_rest()
            session.finish()


@pytest.mark.fota_requirement("FOTA-REG-white-space")
@pytest.mark.fota_devices(*(f"made-{number}" for number in range(len(SPACES))))
@pytest.mark.fota_registry(*(line.replace("%d", str(number)) for number, line in enumerate(SPACES)))
def test_white_space_in_the_registry_does_not_matter(server: ServerBench) -> None:
    """Devices are served whose entries have white space around their fields."""
    where = ("behind its commas", "before its commas", "around it", "at its end, a CR")
    for device, place in zip(server.devices, where, strict=True):
        server.expect_update(device, f"where the registry's line has white space {place}")


@pytest.mark.fota_requirement("FOTA-REG-malformed-line")
@pytest.mark.fota_devices("made-0", *(f"made-{number}" for number in range(1, len(MALFORMED) + 1)))
@pytest.mark.fota_registry("{0}", *(f"{line}\n{{{number}}}" for number, line in enumerate(MALFORMED, start=1)))
def test_a_malformed_line_disables_itself_alone(server: ServerBench) -> None:
    """Devices before and behind malformed lines of the registry are served."""
    server.expect_update(server.devices[0], "where malformed lines follow in the registry")
    for device, line in zip(server.devices[1:], MALFORMED, strict=True):
        server.expect_update(device, f"where the line before in the registry is {line[:60]!r}")


@pytest.mark.fota_requirement("FOTA-REG-comments")
@pytest.mark.fota_devices("made-0", "made-1", "made-2")
@pytest.mark.fota_registry(
    "# devices, one a line", "{0}", "", "   ", "  # indented", "#", "#{2}", "{1}  # the board on my desk"
)
def test_comments_and_blank_lines_are_ignored(server: ServerBench) -> None:
    """Devices before, behind and beside comments are served; one that is commented out is not known."""
    server.expect_update(
        server.devices[0], "where a comment line is before its entry in the registry, and blank lines behind it"
    )
    server.expect_update(
        server.devices[1],
        "where comment lines and blank lines are before its entry in the registry, and a comment behind it",
    )
    with server.session(server.devices[2]) as session:
        session.hear_refusal("after the identification of a device whose entry is commented out")
