"""`fota swarm --virtual`: a server and a fleet in virtual time, as a process and again."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fota_fixtures
from fota_cli.main import main

FAULTS = """
[[fault]]
kind = "disconnect"
probability = 0.3
records = [1, 400]

[[fault]]
kind = "power-cut"
probability = 0.2

[[fault]]
kind = "corrupt-record"
probability = 0.2
"""


def virtual(*options: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    """What `fota swarm --virtual …` says, in a process with hashes of its own."""
    command = [sys.executable, "-m", "fota_cli", "swarm", "--virtual", "--plain", *options]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env={"PYTHONHASHSEED": hash_seed}
    )


def test_it_is_complete_by_itself(tmp_path: Path) -> None:
    """No server, no file, no port: minutes of a slow link in seconds, every flash verified."""
    path = tmp_path / "report.json"
    done = virtual("--count", "5", "--link", "gprs", "--seed", "7", "--json", str(path))
    report = json.loads(path.read_text())

    assert (0, 5, 5) == (done.returncode, report["updated"], report["verified"])
    assert "5 of 5 updated" in done.stdout
    assert all(300 < device["duration_s"] < 600 for device in report["devices"])


def test_the_same_seed_gives_the_same_trace_byte_for_byte(tmp_path: Path) -> None:
    """Also in another process with other hashes; another seed is another run."""
    (tmp_path / "faults.toml").write_text(FAULTS)
    options = ["--count", "10", "--link", "lossy", "--faults", str(tmp_path / "faults.toml"), "--retries", "9"]
    options += ["--think", "0.01", "--ramp", "5/s", "--storm", "2"]
    traces: list[bytes] = []
    for seed, hash_seed in (("7", "1"), ("7", "2"), ("8", "1")):
        trace = tmp_path / f"{len(traces)}.trace"
        done = virtual(*options, "--seed", seed, "--trace", str(trace), hash_seed=hash_seed)
        assert 0 == done.returncode, done.stderr
        traces.append(trace.read_bytes())

    assert len(traces[0]) > 100_000
    assert traces[0] == traces[1]
    assert traces[0] != traces[2]


def test_a_failure_prints_the_seed_that_repeats_it(tmp_path: Path) -> None:
    """Without retries, faults end updates; the exit code says so."""
    (tmp_path / "faults.toml").write_text(FAULTS)
    done = virtual("--count", "10", "--faults", str(tmp_path / "faults.toml"), "--seed", "42")

    assert 1 == done.returncode
    assert "--seed 42" in done.stderr
    assert "fota swarm --virtual --plain --count 10" in done.stderr
    assert "connection lost" in done.stdout


@pytest.mark.parametrize(
    ("options", "fewer"),
    [(["--pack"], 7.1), (["--handshake", "wait"], 1.0), (["--no-verdict-ack", "--handshake", "immediate"], 1.0)],
)
def test_the_virtual_server_is_told_how_to_serve(options: list[str], fewer: float, tmp_path: Path) -> None:
    """Records and handshakes are its own business, as a real one's are."""
    path = tmp_path / "report.json"
    code = main(["swarm", "--virtual", "--plain", "--count", "2", "--json", str(path), *options])
    report = json.loads(path.read_text())

    assert (0, 2) == (code, report["verified"])
    assert 1_024 / fewer * 0.9 < report["records"] < 1_024 / fewer * 1.1


def test_images_are_dealt_out_and_strangers_refused(tmp_path: Path) -> None:
    """Several files in turn, and a share of devices that the server does not know."""
    images = [part for name in ("blink_1.s19", "blink_2.s19") for part in ("--image", str(fota_fixtures.path(name)))]
    path = tmp_path / "report.json"
    code = main(["swarm", "--virtual", "--plain", "--count", "8", "--unknown", "0.2", *images, "--json", str(path)])
    report: dict[str, Any] = json.loads(path.read_text())

    assert (0, 8, 2) == (code, report["updated"], report["refused"])
    assert {"1", "2"} == {device["version"] for device in report["devices"] if not device["is_stranger"]}


@pytest.mark.parametrize(("share", "strangers"), [("0.1", 1), ("0.6", 15), ("0.9", 90)])
def test_strangers_are_the_share_that_was_asked_for(share: str, strangers: int, tmp_path: Path) -> None:
    """Also when there are more of them than of devices."""
    path = tmp_path / "report.json"
    options = ["--count", "10", "--unknown", share, "--json", str(path)]
    code = main(["swarm", "--virtual", "--plain", *options])
    report = json.loads(path.read_text())

    assert (0, 10, strangers) == (code, report["updated"], report["refused"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--count", "1", "--server", "127.0.0.1:4000"], "--server: not with --virtual"),
        (["--count", "1", "--registry", "none.txt"], "--registry: not with --virtual"),
        (["--count", "1", "--source-ip", "127.0.0.2"], "--source-ip: not with --virtual"),
        (["--count", "1", "--unknown", "1"], "unknown 1, expected a share from 0 to less than 1"),
        (["--count", "1", "--ramp", "1/s", "--burst", "1/1"], "--ramp and --burst: expected one of them"),
        (["--count", "1", "--faults", "none.toml"], "faults none.toml: No such file"),
        (["--count", "1", "--retries", "-1"], "retries -1, expected 0 to 1000000"),
        ([], "how many devices?"),
    ],
)
def test_what_cannot_be_meant_is_a_message(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, exit code 2."""
    code = main(["swarm", "--virtual", "--plain", *options])
    err = capsys.readouterr().err

    assert (2, 1) == (code, err.count("\n"))
    assert message in err


@pytest.mark.parametrize(
    "options",
    [
        ["--ramp", "0"],
        ["--ramp", "fast"],
        ["--burst", "10"],
        ["--burst", "0/5"],
        ["--link", "string"],
        ["--think", "-1"],
        ["--storm", "nan"],
        ["--retry-on", "refused"],
        ["--source-ip", "127.0.0.9-2"],
        ["--source-ip", "localhost"],
        ["--source-ip", "10.0.0.0-10.255.255.255"],
    ],
)
def test_options_say_what_they_expect(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """By argparse's own way out."""
    with pytest.raises(SystemExit) as caught:
        main(["swarm", "--virtual", "--count", "1", *options])

    assert 2 == caught.value.code
    assert f"argument {options[0]}" in capsys.readouterr().err


def test_a_real_server_decides_for_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """What the virtual server is told cannot be told to another; and one of both is needed."""
    codes = [
        main(["swarm", "--count", "1"]),
        main(["swarm", "--count", "1", "--server", "127.0.0.1:1", "--pack"]),
    ]
    err = capsys.readouterr().err

    assert [2, 2] == codes
    assert "which server?" in err
    assert "--handshake and --pack: expected with --virtual" in err
