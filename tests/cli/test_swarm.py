"""`fota swarm` against a real `fota serve`: many devices, a report, exit codes, and Ctrl-C."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import fota_fixtures
from fota_cli.compose.server_process import ServerProcess
from fota_cli.main import main
from fota_protocol.formats import load
from fota_simulator import device_file
from fota_simulator.boot import would_start
from fota_simulator.flash import SectorPool

IMAGES: Final = (fota_fixtures.path("blink_1.s19"), fota_fixtures.path("blink_2.s19"))
COUNT: Final = 20
FIRST: Final = 1000000000000000000000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the registry lies."""
    folder = tmp_path_factory.mktemp("server")
    lines = [f"{FIRST + i:025d},{IMAGES[i % 2].name},{i:X}" for i in range(COUNT)]
    (folder / "devices.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    """The address of a server that knows twenty devices, with two images in turn."""
    options = ["--host", "127.0.0.1", "--port", "0", "--registry", str(folder / "devices.txt")]
    options += ["--firmware", str(IMAGES[0].parent), "--logs", str(folder / "logs")]
    with ServerProcess(options, folder) as process:
        yield f"{process.host}:{process.port}"


def test_numbered_devices_take_the_images_in_turn(server: str, tmp_path: Path) -> None:
    """All updated, each flash verified against its own image."""
    path = tmp_path / "report.json"
    images = [argument for image in IMAGES for argument in ("--image", str(image))]

    code = main(["swarm", "--server", server, "--count", str(COUNT), *images, "--json", str(path)])

    report = json.loads(path.read_text())
    assert code == 0
    assert (report["count"], report["updated"], report["verified"], report["failures"]) == (COUNT, COUNT, COUNT, {})
    assert [device["version"] for device in report["devices"]] == [f"{i:X}" for i in range(COUNT)]
    assert len({device["image_crc"] for device in report["devices"]}) == 2


def test_devices_of_the_registry_are_verified_against_its_files(
    server: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing but the server's own registry and folder need be named."""
    registry, firmware = str(folder / "devices.txt"), str(IMAGES[0].parent)

    code = main(["swarm", "--server", server, "--registry", registry, "--firmware", firmware])

    assert code == 0
    assert f"{COUNT} of {COUNT} updated" in capsys.readouterr().out


def test_wrong_image_is_found_in_every_flash(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Half of the devices were given the other image."""
    code = main(["swarm", "--server", server, "--count", str(COUNT), "--image", str(IMAGES[0]), "--json", "-"])

    report = json.loads(capsys.readouterr().out)
    assert code == 1
    assert (report["updated"], report["verified"], report["not_verified"]) == (COUNT, COUNT // 2, COUNT // 2)


def test_unknown_devices_are_refused(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Those that the registry has are updated all the same."""
    code = main(["swarm", "--server", server, "--count", str(COUNT + 5), "--plain"])

    printed = capsys.readouterr()
    assert code == 1
    assert f"{COUNT} of {COUNT + 5} updated, 5 refused, 0 failed" in printed.out
    assert f"{COUNT}/{COUNT + 5} updated" in printed.err


def test_no_server_is_many_failed_devices(capsys: pytest.CaptureFixture[str]) -> None:
    """No traceback, the reason once for all of them, the system's word for it and what to do; nothing of images."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"

    code = main(["swarm", "--server", address, "--count", "50", "--plain"])

    out, err = capsys.readouterr()
    assert code == 1
    assert "0 of 50 updated, 0 refused, 50 failed\n" in out
    assert "50 x connection\n" in out
    assert "no connection, 50 x Connection refused; is the server there? Look at host and port in --server\n" in out
    assert "attempts: 50 x connection: Connection refused\n" in err


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to a child there")
@pytest.mark.parametrize(
    ("before", "number"),
    [("", signal.SIGINT), ("", signal.SIGTERM), ("trap '' INT;", signal.SIGTERM)],
    ids=["SIGINT", "SIGTERM", "SIGTERM, in the background of a script"],
)
def test_interrupted_run_says_what_was_done(server: str, tmp_path: Path, before: str, number: signal.Signals) -> None:
    """Ctrl-C or SIGTERM, also where Ctrl-C is ignored: a report of what was done, exit code 130, no traceback."""
    path = tmp_path / "report.json"
    command = [sys.executable, "-m", "fota_cli", "swarm", "--server", server, "--count", str(COUNT), "--ramp", "0.5"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        ["sh", "-c", f'{before} exec "$@"', "sh", *command, "--json", str(path), "--plain"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        first_line = process.stderr.readline()
        process.send_signal(number)
        out, err = process.communicate(timeout=60)

    report = json.loads(path.read_text())
    ended = report["updated"] + report["refused"] + report["failed"]
    assert process.returncode == 130
    assert "updated" in first_line
    assert f"interrupted, {COUNT - ended} devices had not ended" in err
    assert f"of {COUNT} updated" in out
    assert "Traceback" not in err
    assert ended < COUNT


@pytest.mark.parametrize("text", ["0.2", "20%"])
def test_share_of_strangers_is_a_fraction_or_a_percentage(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Both are a fifth of all devices."""
    code = main(["swarm", "--virtual", "--count", "4", "--unknown", text, "--json", "-", "--plain"])

    assert 0 == code
    assert 1 == json.loads(capsys.readouterr().out)["strangers"]["count"]


def test_share_that_is_no_number_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    """The complaint shows two that are one."""
    with pytest.raises(SystemExit) as ended:
        main(["swarm", "--virtual", "--count", "4", "--unknown", "a fifth"])

    assert 2 == ended.value.code
    assert "'a fifth', expected a share, such as 0.2 or 20%" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--count"),
        (["--count", "0"], "at least 1"),
        (["--count", "100000000"], "at most"),
        (["--count", "5", "--first-mcuid", "12"], "25 decimal digits"),
        (["--count", "5", "--first-mcuid", "9" * 25], "25 digits"),
        (["--count", "5", "--image", "missing.s19"], "missing.s19"),
        (["--registry", "missing.txt"], "missing.txt"),
    ],
)
def test_bad_input_is_a_message_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    """What came and what was expected, before anything is connected."""
    code = main(["swarm", "--server", "127.0.0.1:4000", *arguments])

    printed = capsys.readouterr()
    assert code == 2
    assert printed.err.startswith("fota: ")
    assert message in printed.err


def test_a_registry_that_cannot_be_meant_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A negative count, and a folder to write the report to, are said before anything runs."""
    registry = tmp_path / "registry.txt"
    registry.write_text("0001000000000000000000000,a.s19,01\n")
    common = ["swarm", "--server", "127.0.0.1:1", "--registry", str(registry)]

    assert 2 == main([*common, "--count", "-1"])
    assert 2 == main([*common, "--json", str(tmp_path)])
    assert "Traceback" not in capsys.readouterr().err


def test_fleet_survives_a_restart(server: str, folder: Path, tmp_path: Path) -> None:
    """The devices of a second run are those of the first: their flash, and its wear."""
    options = ["--server", server, "--registry", str(folder / "devices.txt"), "--devices", str(tmp_path)]

    codes = [main(["swarm", *options, "--firmware", str(IMAGES[0].parent)]) for _ in range(2)]

    saved = [device_file.load(path) for path in sorted(tmp_path.iterdir())]
    assert codes == [0, 0]
    assert [f"{FIRST + i:025d}" for i in range(COUNT)] == [device.identification.mcuid for device in saved]
    assert {2} == {count for device in saved for count in device.wear.values()}
    assert all(would_start(device.flash(SectorPool()), device.settings.policy) for device in saved)


def test_device_file_that_is_damaged_stops_a_fleet_before_it_begins(
    server: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Named, with the reason; nobody is updated."""
    path = tmp_path / f"{FIRST + 3:025d}.k60"
    path.write_bytes(b"not a device")

    code = main(["swarm", "--server", server, "--registry", str(folder / "devices.txt"), "--devices", str(tmp_path)])

    assert code == 2
    assert f"{path.name}: no device file" in capsys.readouterr().err
    assert [path] == list(tmp_path.iterdir())


def test_fleet_keeps_what_its_devices_are(server: str, folder: Path, tmp_path: Path) -> None:
    """A device with another bootloader stays what it is, whatever the run's options say."""
    path = tmp_path / f"{FIRST:025d}.k60"
    kind = ["--suffix", "0141", "--policy", "mark", "--order", "file", "--unguarded"]
    main(["mcu", "--server", server, "--mcuid", f"{FIRST:025d}", "--device", str(path), *kind])
    before = device_file.load(path)

    code = main(["swarm", "--server", server, "--registry", str(folder / "devices.txt"), "--devices", str(tmp_path)])

    after = device_file.load(path)
    assert code == 0
    assert (before.identification, before.settings) == (
        after.identification,
        after.settings,
    )


def test_interrupted_fleet_keeps_devices_in_mid_update(tmp_path: Path) -> None:
    """Ctrl-C is a power cut for whoever is under way: the file has the flash of that moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        arguments = ["swarm", "--server", address, "--count", "1", "--devices", str(tmp_path), "--plain"]
        with subprocess.Popen([sys.executable, "-m", "fota_cli", *arguments], stderr=subprocess.DEVNULL) as fleet:
            listener.settimeout(60)
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(60)
                assert connection.recv(64).endswith(b"#")
                for frame in (b"@4#", *load(IMAGES[0].read_bytes()).frames[:5]):
                    connection.sendall(frame)
                    assert connection.recv(1) == b"@"
                fleet.send_signal(signal.SIGINT)
                code = fleet.wait(60)

    (path,) = tmp_path.iterdir()
    saved = device_file.load(path)
    assert code == 130
    assert {0x4000 // saved.part.sector_size: 1} == saved.wear
    assert load(IMAGES[0].read_bytes()).read(0x4004, 0x4050) == saved.read(0x4004, 0x4050)


def test_bricked_device_of_a_fleet_fails_and_the_others_go_on(server: str, folder: Path, tmp_path: Path) -> None:
    """It never connects, and its file stays as it is."""
    path = tmp_path / f"{FIRST:025d}.k60"
    options = ["--server", server, "--registry", str(folder / "devices.txt"), "--devices", str(tmp_path)]
    main(["swarm", *options, "--count", "1"])
    saved = device_file.load(path)
    first = saved.sectors[0]
    damaged = dataclasses.replace(saved, sectors={**saved.sectors, 0: bytes([first[0] ^ 1]) + first[1:]})
    device_file.save(path, damaged)
    report = tmp_path.parent / "report.json"

    code = main(["swarm", *options, "--json", str(report)])

    found = json.loads(report.read_text())
    bricked = found["devices"][0]
    assert (code, found["updated"], found["failures"]) == (1, COUNT - 1, {"bricked": 1})
    assert ("bricked", False) == (bricked["reason"], bricked["booted"])
    assert damaged == device_file.load(path)
