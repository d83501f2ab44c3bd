"""Target files: what is declared is read, what is wrong is refused with file, key and what was expected."""

import datetime
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest

import fota_fixtures
from fota_conformance.errors import TargetError
from fota_conformance.target import (
    DeviceCommand,
    Handshake,
    Observe,
    Revision,
    Role,
    ServerAddress,
    ServerCommand,
    Timeouts,
    fill,
)
from fota_conformance.target_file import load_target

SERVER = 'kind = "server-by-command"\nrevision = "A"\ncommand = "serve {port}"\n'
DEVICE = 'kind = "device-by-command"\nrevision = "A"\ncommand = "mcu {port} {mcuid}"\n'
ADDRESS = 'kind = "server-by-address"\nrevision = "A"\nhost = "localhost"\nport = 4000\n'
KNOWN = '[[devices]]\nmcuid = "0001100023593110965955141"\nfile = "blink_1.s19"\nversion = "16"\n'
EXCLUSION = '[[exclusions]]\nrequirement = "FOTA-ACK-wrong"\nreason = "known"\nuntil = 2099-12-31\n'
EXAMPLES = sorted(Path(str(files("fota_conformance"))).glob("examples/*.toml"))

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a target file beside a firmware file."""
    shutil.copy(fota_fixtures.path("blink_1.s19"), tmp_path)
    shutil.copy(fota_fixtures.path("blink_2.s19"), tmp_path)

    def write_target(text: str) -> Path:
        path = tmp_path / "target.toml"
        path.write_text(text)
        return path

    return write_target


def test_server_command_has_defaults(write: Write) -> None:
    """Three keys make a target: revision A's handshake, the socket table for readiness, loopback."""
    target = load_target(write(SERVER))

    assert isinstance(target, ServerCommand)
    assert (target.role, target.name, target.command) == (Role.SERVER, "target", ("serve", "{port}"))
    assert (target.revision, target.handshake) == (Revision.A, Handshake.IMMEDIATE)
    assert target.ready.listening
    assert Timeouts() == target.timeouts


def test_scale_stretches_every_timeout(write: Write) -> None:
    """`scale` applies to what the file gives and to the defaults."""
    target = load_target(write(SERVER + "scale = 2\n[timeouts]\nframe = 1.5\n"))

    assert (3.0, 2 * Timeouts().ready) == (target.timeouts.frame, target.timeouts.ready)


def test_device_command_is_read(write: Write) -> None:
    """A device with an identity of its own needs no {mcuid}, and declares what it shows."""
    text = DEVICE.replace(" {mcuid}", "").replace('"A"', '"B"')
    target = load_target(
        write(text + 'mcuid = "DEADBEEF"\n[observe]\nflash = "{artifacts}/f.bin"\nflash_address = 0x4000')
    )

    assert isinstance(target, DeviceCommand)
    assert (target.role, target.mcuid, target.handshake) == (Role.DEVICE, "DEADBEEF", Handshake.WAIT)
    assert Observe(flash="{artifacts}/f.bin", flash_address=0x4000) == target.observe


def test_server_address_is_read(write: Write) -> None:
    """A server by address comes with devices that it knows; their files are beside the target file."""
    path = write(ADDRESS + KNOWN)

    target = load_target(path)

    assert isinstance(target, ServerAddress)
    assert [("0001100023593110965955141", path.with_name("blink_1.s19"), "16")] == [
        (device.mcuid, device.file, device.version) for device in target.devices
    ]


def test_promises_offers_and_lacks_of_a_server(write: Write) -> None:
    """What a server by command offers follows from the file; what it lacks is taken away."""
    target = load_target(write(SERVER + "[deadlines]\nack = 2\n[capabilities]\nprocess = false\n"))
    provided = load_target(write(SERVER + 'provision = "fill {table}"\nconcurrency = 1\n'))

    assert isinstance(target, ServerCommand)
    assert (2.0, 30.0) == (target.deadlines.ack, target.deadlines.identification)
    assert {"registry", "registry-text", "concurrency"} == target.offers
    assert {"registry", "process"} == provided.offers


def test_promises_offers_and_lacks_of_a_device(write: Write) -> None:
    """A device offers what it shows, how it is controlled, and what it declares."""
    observe = '[observe]\nflash = "f.bin"\n[capabilities]\nseal = true\nvectors = false\n'
    target = load_target(write(DEVICE + 'power_off = "kill {pid}"\n' + observe))

    assert isinstance(target, DeviceCommand)
    assert {"flash", "power", "seal"} == target.offers
    assert {"vectors"} == target.lacks


def test_exclusion_covers_requirements_and_globs_of_cases(write: Write) -> None:
    """An exclusion names a requirement or cases, a reason, and its last day."""
    globbed = EXCLUSION.replace('requirement = "FOTA-ACK-wrong"', 'case = "test_server_acks.py::*"')
    target = load_target(write(SERVER + EXCLUSION + globbed))

    by_requirement, by_case = target.exclusions
    assert (datetime.date(2099, 12, 31), "known") == (by_requirement.until, by_requirement.reason)
    assert by_requirement.covers("any", ["FOTA-ACK-wrong"])
    assert not by_requirement.covers("test_server_acks.py::test_x", ["FOTA-ACK-line-end"])
    assert by_case.covers("test_server_acks.py::test_x[1]", [])
    assert not by_case.covers("test_server_stop.py::test_x", ["FOTA-ACK-wrong"])


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_a_target(write: Write, example: Path) -> None:
    """The example files that are installed with the kit are read as they are."""
    assert load_target(write(example.read_text(encoding="utf-8"))).name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind = ", "is not TOML"),
        ("", "kind: missing, expected one of 'server-by-command', 'server-by-address', 'device-by-command'"),
        ('kind = "toaster"', "kind: expected one of .*, got 'toaster'"),
        (SERVER.replace('"A"', '"C"'), "revision: expected one of 'A', 'B', got 'C'"),
        (SERVER + 'handshake = "no"', "handshake: expected one of 'wait', 'immediate', 'auto', got 'no'"),
        (SERVER + "name = 7", "name: expected a name for reports, got 7"),
        (SERVER + "comand = 7", "comand: unknown key; did you mean 'command'"),
        (SERVER + "colour = 7", "colour: unknown key; known here: capabilities, command, concurrency"),
        (SERVER + 'profile = "other"', "profile: expected 'k60-fota', got 'other'"),
        (SERVER + "concurrency = 0", "concurrency: expected a number of sessions, 1 to 1000, got 0"),
        (SERVER + "[deadlines]\nack = 0", "deadlines.ack: expected a number of seconds above 0, got 0"),
        (SERVER + "[deadlines]\nframe = 1", "deadlines.frame: unknown key"),
        (SERVER + 'provision = "fill {mcuid}"', r"provision: unknown placeholder \{mcuid\}"),
        (SERVER + "[capabilities]\nflash = false", "capabilities.flash: unknown key; known here: concurrency, process"),
        (SERVER + "[capabilities]\nprocess = true", "capabilities.process: cannot be declared, only offered: the kit"),
        (SERVER + "[capabilities]\nprocess = 1", "capabilities.process: expected true or false, got 1"),
        (
            SERVER + EXCLUSION.replace("FOTA-ACK-wrong", "FOTA-NO"),
            r"exclusions\[0\].requirement: there is no requirement",
        ),
        (SERVER + EXCLUSION + 'case = "x"', r"exclusions\[0\].requirement: expected either requirement or case"),
        (SERVER + EXCLUSION.replace("until", "till"), r"exclusions\[0\].until: missing, expected the last day"),
        (
            SERVER + EXCLUSION.replace("2099-12-31", '"soon"'),
            r"exclusions\[0\].until: expected the last day .*got 'soon'",
        ),
        (
            SERVER + EXCLUSION.replace('"known"', '""'),
            r"exclusions\[0\].reason: expected why it does not count, got ''",
        ),
        (DEVICE + "port = 4000\nconcurrency = 2", "concurrency: is 1 for a device with an mcuid or a port of its own"),
        (DEVICE + "[memory]\napplication = [0x4001, 0x8000]", r"memory.application: expected \[start, end\)"),
        (DEVICE + "[memory]\napplication = 7", r"memory.application: expected \[start, end\)"),
        (DEVICE + "[limits]\nmax_minutes = 0", "limits.max_minutes: expected a number of minutes above 0, got 0"),
        (DEVICE + 'power_off = "off {logs}"', r"power_off: unknown placeholder \{logs\}"),
        (SERVER + "timeouts = 7", "timeouts: expected a table, got 7"),
        (SERVER + '[timeouts]\nframe = "ten"', "timeouts.frame: expected a number of seconds above 0, got 'ten'"),
        (SERVER + "[timeouts]\nframe = 0", "timeouts.frame: expected a number of seconds above 0, got 0"),
        (SERVER + "[timeouts]\nfame = 1", "timeouts.fame: unknown key; did you mean 'frame'"),
        (SERVER + "scale = true", "scale: expected a factor above 0, got True"),
        (SERVER.replace("serve {port}", "serve"), r"command: expected \{port\} somewhere"),
        (
            SERVER.replace("{port}", "{port} {mcuid}"),
            r"command: unknown placeholder \{mcuid\}, expected one of \{host\}",
        ),
        (SERVER.replace('"serve {port}"', "[]"), "command: expected a command: a list of strings, or one string"),
        (SERVER.replace('"serve {port}"', "['serve', 4]"), "command: expected a command"),
        (SERVER.replace("serve {port}", "serve ' {port}"), "command: No closing quotation"),
        (SERVER + "[ready]\nlog = '('", "ready.log: is not a regular expression"),
        (SERVER + "[ready]\nlog = 'x'\nfile = 'y'", "ready: expected one of log, file, listening, got log and file"),
        (SERVER + "[ready]\nlistening = false", "ready.listening: expected true, got False"),
        (SERVER + "[ready]\nfile = '{lags}'", r"ready.file: unknown placeholder \{lags\}"),
        (DEVICE.replace(" {mcuid}", ""), r"command: expected \{mcuid\} somewhere, or mcuid ="),
        (DEVICE + 'mcuid = "7"', r"mcuid: expected 25 decimal digits \(revision A\), got '7'"),
        (DEVICE + "port = 65536", "port: expected a port, or 0 for any free one, got 65536"),
        (DEVICE + "[observe]\nflash = 7", "observe.flash: expected the path of a flash dump, got 7"),
        (DEVICE + "[observe]\nflash = '{logs}'", r"observe.flash: unknown placeholder \{logs\}"),
        (ADDRESS, r"devices: missing, expected one \[\[devices\]\] table per device"),
        (ADDRESS.replace("4000", "0") + KNOWN, "port: expected a port, 1 to 65535, got 0"),
        (
            ADDRESS + KNOWN.replace("16", "1a"),
            r"devices\[0\].version: expected one or two upper-case hex digits, got '1a'",
        ),
        (ADDRESS + KNOWN.replace("blink_1", "none"), r"devices\[0\].file: there is no file .*none.s19"),
    ],
)
def test_wrong_target_is_refused(write: Write, text: str, message: str) -> None:
    """A wrong target file is named with the key and what was expected there."""
    path = write(text)

    with pytest.raises(TargetError, match=f"target.toml: {message}") as caught:
        load_target(path)

    assert path == caught.value.path


def test_absent_target_is_refused(tmp_path: Path) -> None:
    """A target file that is not there is named."""
    with pytest.raises(TargetError, match=r"none\.toml: cannot be read: No such file"):
        load_target(tmp_path / "none.toml")


def test_only_known_placeholders_are_filled() -> None:
    """Braces that are no placeholder, as in JSON, stay as they are."""
    assert fill('{port} {"a": 1} {other}', {"port": 4000}) == '4000 {"a": 1} {other}'
