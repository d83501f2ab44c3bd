"""`fota mcu` against a real `fota serve`: one device, its outcome, its files, and messages for bad input.

Power is cut by `kill -9`, in the middle of an update by a server that is played by hand.
"""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bincopy
import pytest

import fota_fixtures
from fota_cli.compose.server_process import ServerProcess
from fota_cli.main import main
from fota_simulator import device_file
from fota_transport.trace import parse as parse_trace

MCUID = "0001000000000000000000000"
UNSEALED_MCUID = "0001000000000000000000001"
UNKNOWN_MCUID = "0001999999999999999999999"
IMAGE = fota_fixtures.path("blink_1.s19")
FLASH_SIZE = 0x80000
PATIENCE_S = 30.0
"""Seconds for whatever must come; starting Python takes most of them on a busy machine."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that knows two devices."""
    folder = tmp_path_factory.mktemp("server")
    registry = folder / "devices.txt"
    registry.write_text(f"{MCUID},blink_1.s19,1A\n{UNSEALED_MCUID},blink_1_unsealed.s19,2\n")
    options = ["--host", "127.0.0.1", "--port", "0", "--registry", str(registry)]
    options += ["--firmware", str(IMAGE.parent), "--logs", str(folder / "logs")]
    with ServerProcess(options, folder) as process:
        yield f"{process.host}:{process.port}"


@pytest.fixture
def closed_port() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def outcome_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What `--json -` printed."""
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_device_is_updated_and_verified(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The outcome has the image's name, which the manifest knows too."""
    code = main(["mcu", "--server", server, "--mcuid", MCUID, "--image", str(IMAGE), "--json", "-"])

    outcome = outcome_of(capsys)
    facts = fota_fixtures.fixture("blink_1.s19").image
    assert facts is not None
    assert code == 0
    assert outcome.pop("duration_s") > 0
    assert outcome == {
        "outcome": "updated",
        "attempts": 1,
        "is_stranger": False,
        "reason": None,
        "detail": "updated",
        "version": "1A",
        "records": facts.records,
        "booted": True,
        "image_crc": f"{facts.crc32:08X}",
        "verified": True,
        "started_s": 0.0,
        "mcuid": MCUID,
        "part": "MK60DN512",
    }


def test_flash_that_is_not_the_image_is_a_failure(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The server did its part, but not with the firmware that was expected."""
    other = str(fota_fixtures.path("blink_2.s19"))

    code = main(["mcu", "--server", server, "--mcuid", MCUID, "--image", other])

    assert code == 1
    assert "flash not as the image" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".s19", ".hex", ".bin"])
def test_dump_is_the_image_to_another_reader(server: str, tmp_path: Path, suffix: str) -> None:
    """bincopy reads the image's bytes out of every kind of dump, with FF around them."""
    path = tmp_path / f"flash{suffix}"

    code = main(["mcu", "--server", server, "--mcuid", MCUID, "--dump", str(path)])

    dumped, image = bincopy.BinFile(), bincopy.BinFile(str(IMAGE))
    if suffix == ".bin":
        dumped.add_binary_file(str(path), address=0x4000)
    else:
        dumped.add_file(str(path))
    start, end = image.minimum_address, image.maximum_address
    assert code == 0
    assert dumped.as_binary(start, end, b"\xff") == image.as_binary(start, end, b"\xff")
    assert not dumped.as_binary(end, 0x80000, b"\xff").strip(b"\xff")


def test_trace_has_the_whole_conversation(server: str, tmp_path: Path) -> None:
    """From the identification, with the digits behind it, to the ack of the end frame."""
    path = tmp_path / "wire.trace"

    main(["mcu", "--server", server, "--mcuid", MCUID, "--suffix", "0141", "--trace", str(path)])

    entries = parse_trace(path.read_text())
    assert entries[0].data == b"@%s0141#" % MCUID.encode()
    assert [entry.data for entry in entries[-2:]] == [b"@1A##", b"@"]


@pytest.mark.parametrize("arguments", [[], ["--no-verdict-ack", "--part", "TWR-K60D100M", "--policy", "an2295"]])
def test_unknown_device_is_refused(server: str, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    """Exit code 1, and nothing in flash."""
    code = main(["mcu", "--server", server, "--mcuid", UNKNOWN_MCUID, "--json", "-", *arguments])

    outcome = outcome_of(capsys)
    assert code == 1
    assert (outcome["outcome"], outcome["reason"], outcome["image_crc"]) == ("refused", None, None)


@pytest.mark.parametrize(("policy", "code"), [("sealed", 1), ("vectors", 0), ("an2295", 0)])
def test_policy_decides_about_an_image_without_seal(server: str, policy: str, code: int) -> None:
    """A device that asks for a seal does not ack the end."""
    assert main(["mcu", "--server", server, "--mcuid", UNSEALED_MCUID, "--policy", policy]) == code


def test_server_that_is_not_there_is_a_failed_device(closed_port: str, capsys: pytest.CaptureFixture[str]) -> None:
    """No traceback: an outcome, with its reason."""
    code = main(["mcu", "--server", closed_port, "--mcuid", MCUID, "--json", "-"])

    outcome = outcome_of(capsys)
    assert code == 1
    assert (outcome["outcome"], outcome["reason"], outcome["verified"]) == ("failed", "connection", None)


def test_server_that_does_not_answer_is_a_failed_device(capsys: pytest.CaptureFixture[str]) -> None:
    """A full listen queue leaves a connection pending until the time-out."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        with socket.create_connection(address):
            code = main(
                ["mcu", "--server", f"127.0.0.1:{address[1]}", "--mcuid", MCUID, "--timeout", "0.5", "--json", "-"]
            )

    outcome = outcome_of(capsys)
    assert code == 1
    assert outcome["outcome"] == "failed"
    assert outcome["reason"] in ("connection", "timeout")  # some systems queue one connection more


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--server", "nowhere"], "HOST:PORT"),
        (["--server", "127.0.0.1:0"], "HOST:PORT"),
        (["--server", "127.0.0.1:99999"], "HOST:PORT"),
        (["--mcuid", "12G4"], "12G4"),
        (["--mcuid", ""], "MCUID"),
        (["--suffix", "12x"], "12x"),
        (["--part", "MK99"], "MK60DN512"),
        (["--timeout", "0"], "more than 0"),
        (["--timeout", "nan"], "more than 0"),
        (["--image", "missing.s19"], "missing.s19"),
        (["--image", str(fota_fixtures.path("bad_checksum.s19"))], "line"),
        (["--dump", "flash.elf"], ".s19"),
        (["--json", "no/such/folder/out.json"], "no/such/folder"),
        (["--flash", "no/such/folder/flash.bin"], "no/such/folder/flash.bin: No such file or directory, expected"),
        (["--flash", str(IMAGE)], "expected a file of 524288 bytes"),
        (["--flash", str(IMAGE), "--part", "MK60FN1M0"], "expected a file of 1048576 bytes"),
        (["--flash", "."], "expected a file of 524288 bytes"),
    ],
)
def test_bad_input_is_a_message_and_exit_code_2(
    closed_port: str, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """What came and what was expected; nothing was tried."""
    code = main(["mcu", "--server", closed_port, "--mcuid", MCUID, *arguments])

    printed = capsys.readouterr()
    assert code == 2
    assert printed.err.startswith("fota: ")
    assert message in printed.err
    assert printed.out == ""


def frames() -> list[bytes]:
    """The image's records as they are sent."""
    lines = IMAGE.read_bytes().split()
    return [line for line in lines if line[:2] in (b"S1", b"S2", b"S3")]


def cut_power(path: Path, *, ahead: int) -> int:
    """Kill a device in mid-update of the flash in `path`; returns how many records it acked.

    With `ahead` records under way it is killed at work, otherwise while it waits.
    """
    records = frames()
    taken = random.Random(ahead).randrange(1, len(records) - ahead)
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        listener.settimeout(PATIENCE_S)
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        device = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", "fota_cli", "mcu", "--server", address, "--mcuid", MCUID, "--flash", str(path)],
                stderr=subprocess.DEVNULL,
            )
        )
        stack.callback(device.kill)
        connection, _ = listener.accept()
        stack.enter_context(connection)
        connection.settimeout(PATIENCE_S)
        assert connection.recv(64) == b"@%s#" % MCUID.encode()
        for frame in (b"@4#", *records[:taken]):
            connection.sendall(frame)
            assert connection.recv(1) == b"@"
        connection.sendall(b"".join(records[taken : taken + ahead]))
        os.kill(device.pid, signal.SIGKILL)
        device.wait(PATIENCE_S)
        with contextlib.suppress(ConnectionError):
            taken += len(connection.recv(64))
    return taken


@pytest.mark.parametrize("ahead", [0, 1, 8, 20])
def test_power_cut_leaves_the_flash_of_that_moment_and_the_next_update_repairs_it(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], ahead: int
) -> None:
    """`kill -9` in mid-update: what was acked is in the file, starts nothing, and is replaced as a whole."""
    path = tmp_path / "flash.bin"
    options = ["--server", server, "--flash", str(path), "--image", str(IMAGE), "--json", "-"]
    taken = cut_power(path, ahead=ahead)
    cut = path.read_bytes()

    main(["mcu", "--mcuid", UNKNOWN_MCUID, *options])
    after_cut, held = outcome_of(capsys), path.read_bytes()
    main(["mcu", "--mcuid", MCUID, *options])
    repaired, whole = outcome_of(capsys), path.read_bytes()

    image = bincopy.BinFile(str(IMAGE)).as_binary(0x4000, padding=b"\xff")
    acked = bincopy.BinFile()
    acked.add_srec(b"\n".join(frames()[:taken]).decode())
    for start, data in acked.segments:
        first = max(0x4004 - start, 0)  # the stack pointer is programmed at the end
        assert bytes(data[first:]) == cut[start + first : start + len(data)]
    assert ("refused", False) == (after_cut["outcome"], after_cut["booted"])
    assert cut == held
    assert ("updated", True, True) == (repaired["outcome"], repaired["booted"], repaired["verified"])
    assert cut[:0x4000] + image.ljust(FLASH_SIZE - 0x4000, b"\xff") == whole


def test_flash_file_goes_on_where_the_last_run_ended(
    server: str, closed_port: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A device that holds a good image and is refused, or finds no server, still starts it; its flash stays."""
    path = tmp_path / "flash.bin"
    found = []
    for address, mcuid in (
        (closed_port, MCUID),
        (server, MCUID),
        (server, UNKNOWN_MCUID),
        (closed_port, MCUID),
        (server, UNSEALED_MCUID),
    ):
        main(["mcu", "--server", address, "--mcuid", mcuid, "--flash", str(path), "--json", "-"])
        outcome = outcome_of(capsys)
        found.append((outcome["outcome"], outcome["reason"], outcome["booted"], outcome["image_crc"] is not None))

    assert found == [
        ("failed", "connection", False, False),
        ("updated", None, True, True),
        ("refused", None, True, False),
        ("failed", "connection", True, False),
        ("failed", "seal", False, True),
    ]


def test_flash_file_of_another_part_is_not_touched(server: str, tmp_path: Path) -> None:
    """The flash of one part is not that of another."""
    path = tmp_path / "flash.bin"
    main(["mcu", "--server", server, "--mcuid", MCUID, "--flash", str(path)])
    before = path.read_bytes()

    code = main(["mcu", "--server", server, "--mcuid", MCUID, "--flash", str(path), "--part", "MK60FN1M0"])

    assert code == 2
    assert before == path.read_bytes()


def test_usage_error_makes_no_flash_file(tmp_path: Path, closed_port: str) -> None:
    """Nothing was tried, so there is no device."""
    path = tmp_path / "flash.bin"

    code = main(["mcu", "--server", closed_port, "--mcuid", "12G4", "--flash", str(path)])

    assert (2, False) == (code, path.exists())


# A device that is kept in a file, and one that fails when told to.


def test_device_file_keeps_who_it_is_what_it_holds_and_how_worn_it_is(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second run needs no MCUID, starts from the flash of the first, and wears it once more."""
    path = tmp_path / "board.k60"

    first = main(["mcu", "--server", server, "--mcuid", MCUID, "--device", str(path), "--part", "TWR-K60F120M"])
    one = device_file.load(path)
    second = main(["mcu", "--server", server, "--device", str(path), "--image", str(IMAGE), "--json", "-"])
    two = device_file.load(path)

    outcome = outcome_of(capsys)
    assert (first, second) == (0, 0)
    assert (outcome["mcuid"], outcome["part"], outcome["verified"]) == (MCUID, "MK60FN1M0", True)
    assert one.sectors == two.sectors
    assert {index: 2 * count for index, count in one.wear.items()} == two.wear


@pytest.mark.parametrize(
    ("cut", "records", "booted"),
    [("command:40:torn", 9, False), ("command:1:before", 0, True), ("byte:5", 0, True), ("byte:3000", 69, False)],
)
def test_power_that_fails_when_told_leaves_a_device_that_is_updated_again(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], cut: str, records: int, booted: bool
) -> None:
    """Over a real socket: the outcome names the moment, the file has the flash of it, the next update repairs it."""
    device = ["--server", server, "--device", str(tmp_path / "board.k60"), "--json", "-"]
    main(["mcu", "--mcuid", MCUID, *device])
    capsys.readouterr()

    cut_code = main(["mcu", *device, "--cut", cut])
    after_cut = outcome_of(capsys)
    repaired_code = main(["mcu", *device, "--image", str(IMAGE)])
    repaired = outcome_of(capsys)

    assert (cut_code, after_cut["outcome"], after_cut["reason"]) == (1, "failed", "power lost")
    assert "command" in after_cut["detail"] or "byte" in after_cut["detail"]
    assert (records, booted) == (after_cut["records"], after_cut["booted"])
    assert (repaired_code, repaired["verified"]) == (0, True)


def test_events_tell_what_the_flash_did(server: str, tmp_path: Path) -> None:
    """Resets and commands in virtual time, as text and as JSON."""
    text, document = tmp_path / "events.txt", tmp_path / "events.json"
    for path in (text, document):
        main(["mcu", "--server", server, "--mcuid", MCUID, "--events", str(path)])

    events = json.loads(document.read_text())["events"]
    assert [event["kind"] for event in events][:5] == ["reset", "sent", "received", "sent", "received"]
    assert events[2]["bytes"] == "@4#"
    assert events[5] == {"time_s": 0.014, "kind": "flash", "command": "erase_sector", "address": 0x4000}
    assert len(events) == len(text.read_text().splitlines())


@pytest.mark.parametrize(
    ("options", "outcome", "reason"),
    [
        (["--stuck-bits", "1000"], "failed", "flash error"),
        (["--weak-sectors", "1"], "updated", None),
        (["--strict"], "updated", None),
        (["--protect"], "updated", None),
        (["--order", "file"], "updated", None),
    ],
)
def test_flash_with_faults_is_as_good_as_its_cells(
    server: str, capsys: pytest.CaptureFixture[str], options: list[str], outcome: str, reason: str | None
) -> None:
    """A cell that does not read as it was programmed is not acked; a good flash passes the strictest look."""
    main(["mcu", "--server", server, "--mcuid", MCUID, "--seed", "4", "--json", "-", *options])

    found = outcome_of(capsys)
    assert (outcome, reason) == (found["outcome"], found["reason"])


def test_device_file_that_cannot_be_read_is_refused_and_kept(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Damaged, foreign, or somebody else's: named, with the reason, and as it was."""
    path = tmp_path / "board.k60"
    main(["mcu", "--server", server, "--mcuid", MCUID, "--device", str(path)])
    good = path.read_bytes()
    damaged = good[:-100] + bytes([good[-100] ^ 1]) + good[-99:]
    capsys.readouterr()
    for content, mcuid, reason in (
        (damaged, MCUID, "damaged"),
        (b"S00600004844521B\n", MCUID, "no device file"),
        (good, UNKNOWN_MCUID, f"its MCUID is {MCUID}, expected {UNKNOWN_MCUID}"),
    ):
        path.write_bytes(content)

        code = main(["mcu", "--server", server, "--mcuid", mcuid, "--device", str(path)])

        printed = capsys.readouterr().err
        assert (code, content) == (2, path.read_bytes())
        assert f"device {path}: " in printed
        assert reason in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Say --mcuid"),
        (["--mcuid", MCUID, "--device", "a.k60", "--flash", "b.bin"], "expected one of them"),
        (["--mcuid", MCUID, "--device", "no/such/folder/a.k60"], "no/such/folder"),
        (["--mcuid", MCUID, "--cut", "command:0:torn"], "expected command:N:before"),
        (["--mcuid", MCUID, "--protect", "--part", "MK60FN1M0"], "regions of 32768 bytes"),
        (["--mcuid", MCUID, "--stuck-bits", "-1"], "expected 0 to 1000 bits"),
        (["--mcuid", MCUID, "--weak-sectors", "249"], "no more sectors than the part has"),
    ],
)
def test_device_that_cannot_be_made_is_a_message_and_exit_code_2(
    closed_port: str, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """What came and what was expected; nothing was tried."""
    code = main(["mcu", "--server", closed_port, *arguments])

    assert code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--policy", "vectors"], "its policy is sealed, expected vectors"),
        (["--order", "file"], "its order is vectors-last, expected file"),
        (["--part", "TWR-K60F120M"], "its part is MK60DN512, expected MK60FN1M0"),
        (["--mcuid", MCUID, "--suffix", "99"], "its suffix is none, expected 99"),
        (["--unguarded"], "it is there already"),
        (["--protect"], "it is there already"),
    ],
)
def test_device_that_was_kept_is_not_made_anew_by_options(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    """What an option says of it must be true; nothing is done otherwise."""
    path = tmp_path / "board.k60"
    main(["mcu", "--server", server, "--mcuid", MCUID, "--device", str(path)])
    before = path.read_bytes()

    code = main(["mcu", "--server", server, "--device", str(path), *options])

    assert (code, before) == (2, path.read_bytes())
    assert message in capsys.readouterr().err


def test_device_whose_bootloader_was_overwritten_does_nothing_any_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unguarded bootloader takes records for its own flash; then the device is bricked, and its file says so."""
    image = tmp_path / "app.s19"
    lines = IMAGE.read_text().splitlines()
    image.write_text("\n".join([lines[0], "S107000001020304EE", *lines[1:]]) + "\n")
    (tmp_path / "devices.txt").write_text(f"{MCUID},app.s19,1\n")
    options = ["--host", "127.0.0.1", "--port", "0", "--registry", str(tmp_path / "devices.txt")]
    options += ["--firmware", str(tmp_path), "--logs", str(tmp_path / "logs")]
    path = tmp_path / "board.k60"
    with ServerProcess(options, tmp_path) as process:
        device = ["--server", f"{process.host}:{process.port}", "--device", str(path), "--json", "-"]
        main(["mcu", "--mcuid", MCUID, "--unguarded", *device])
        first = outcome_of(capsys)
        before = path.read_bytes()
        code = main(["mcu", *device])
        second = outcome_of(capsys)

    assert ("updated", False) == (first["outcome"], first["booted"])
    assert (1, "failed", "bricked", False) == (code, second["outcome"], second["reason"], second["booted"])
    assert before == path.read_bytes()


def test_part_that_is_locked_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only where it was allowed; and what can be told of the flash is told."""
    image = tmp_path / "app.s19"
    lines = IMAGE.read_text().splitlines()
    image.write_text("\n".join([lines[0], "S107040CEF3BFFFFC0", *lines[1:]]) + "\n")
    (tmp_path / "devices.txt").write_text(f"{MCUID},app.s19,1\n")
    options = ["--host", "127.0.0.1", "--port", "0", "--registry", str(tmp_path / "devices.txt")]
    options += ["--firmware", str(tmp_path), "--logs", str(tmp_path / "logs")]
    with ServerProcess(options, tmp_path) as process:
        device = ["mcu", "--server", f"{process.host}:{process.port}", "--mcuid", MCUID, "--unguarded"]
        refused = main([*device, "--json", "-"])
        printed = capsys.readouterr()
        allowed = main([*device, "--allow-lock"])

    assert (refused, json.loads(printed.out)["reason"], allowed) == (1, "security", 0)
    assert "lost: secured, and mass erase is disabled" not in printed.err
    assert "lost: secured, and mass erase is disabled" in capsys.readouterr().err


def test_cut_that_is_never_reached_is_said(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The update went well, and that was not what was asked for."""
    code = main(["mcu", "--server", server, "--mcuid", MCUID, "--cut", "byte:999999"])

    assert code == 0
    assert "the power did not fail: byte:999999 was not reached" in capsys.readouterr().err
