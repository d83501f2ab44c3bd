"""The judge is judged: good targets pass, each broken one fails for the right reason, and the rest is told apart.

The targets are `tiny_server.py` and `tiny_device.py`, independent of the product. Runs are real: the command, pytest in
a process of its own, the target in another.
"""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import fota_fixtures
from fota_cli.main import main
from fota_conformance.hosts import Device, Surroundings, free_port, provision
from fota_conformance.process import Child, port_is_listening
from fota_conformance.reading import read_firmware
from fota_conformance.target_file import load_target

TINY_SERVER = Path(__file__).with_name("tiny_server.py")
TINY_DEVICE = Path(__file__).with_name("tiny_device.py")
SERVER_OPTIONS = ("--host", "{host}", "--port", "{port}", "--registry", "{registry}", "--firmware", "{firmware}")
DEVICE_OPTIONS = ("--server", "{host}:{port}", "--mcuid", "{mcuid}")
SHOWING = ("--dump", "{artifacts}/flash.s19", "--json", "{artifacts}/outcome.json")
OBSERVE = '[observe]\nflash = "{artifacts}/flash.s19"\noutcome = "{artifacts}/outcome.json"\n'
WHOLE = "every_record"
EACH = "own_image"
ACKS = "acks_every_frame"
FLASH = "flash_holds"
OUTCOME = "outcome_says"


@dataclass(frozen=True, slots=True)
class Judged:
    """What one run came to."""

    exit_code: int
    results: dict[str, Any] = field(repr=False)

    @property
    def verdicts(self) -> list[str]:
        return [case["verdict"] for case in self.results["cases"]]

    @property
    def messages(self) -> str:
        return "\n".join(case["message"] for case in self.results["cases"])


Judge = Callable[..., Judged]


@pytest.fixture
def judge(tmp_path: Path) -> Judge:
    """Write a target file and run the command on it."""

    def run(text: str, *options: str) -> Judged:
        path = tmp_path / "target.toml"
        path.write_text(text)
        code = main(["conformance", "run", "--target", str(path), "--results", str(tmp_path / "results"), *options])
        return Judged(code, json.loads((tmp_path / "results" / "results.json").read_text()))

    return run


def server_target(*options: str, more: str = "", ready: int = 15) -> str:
    """A target file for the tiny server; the deadlines are short, as a broken one must run into them."""
    command = json.dumps([sys.executable, str(TINY_SERVER), *SERVER_OPTIONS, *options])
    times = f"[timeouts]\nready = {ready}\nframe = 3\nclose = 3\n"
    return f'kind = "server-by-command"\nrevision = "A"\ncommand = {command}\n{more}\n{times}'


def device_target(*options: str, more: str = OBSERVE) -> str:
    """A target file for the tiny device."""
    command = json.dumps([sys.executable, str(TINY_DEVICE), *DEVICE_OPTIONS, *SHOWING, *options])
    times = "[timeouts]\nframe = 3\nexit = 3\ngrace = 0.5\n"
    return f'kind = "device-by-command"\nrevision = "A"\ncommand = {command}\n{more}\n{times}'


@pytest.mark.parametrize(
    ("target", "cases"),
    [
        pytest.param(server_target(), 2, id="revision A"),
        pytest.param(server_target("--handshake", "wait", more='handshake = "wait"'), 2, id="waits for the ack"),
        pytest.param(server_target("--handshake", "auto", more='handshake = "auto"'), 3, id="gets on with both sorts"),
        pytest.param(server_target(more="ready.log = '^listening$'"), 2, id="ready by a log line"),
        pytest.param(
            server_target("--ready-file", "{logs}/ready", more='ready.file = "{logs}/ready"'), 2, id="ready by a file"
        ),
        pytest.param(device_target(), 3, id="device of revision A"),
        pytest.param(device_target("--acks-permission", more=f'handshake = "wait"\n{OBSERVE}'), 3, id="acking device"),
        pytest.param(device_target(more=f'handshake = "auto"\n{OBSERVE}'), 3, id="device found not to ack"),
        pytest.param(
            device_target("--acks-permission", more=f'handshake = "auto"\n{OBSERVE}'), 3, id="device found to ack"
        ),
    ],
)
def test_good_target_passes(judge: Judge, target: str, cases: int) -> None:
    """An independent good server or device passes every case."""
    judged = judge(target)

    assert ["PASS"] * cases == judged.verdicts
    assert judged.exit_code == 0


@pytest.mark.parametrize(
    ("fault", "case", "reason"),
    [
        ("order", WHOLE, "waiting for record 3 of 1024 .*record 4 of the same file"),
        ("line-ending", WHOLE, r"after record 1 of 1024.*came: +b'\\r\\n'.*a record has no line ending"),
        ("first-image", EACH, r"of blink_2.s19.*blink_1.s19, the image of another device"),
        ("corrupt", WHOLE, "waiting for record 5 of 1024 .*differs from character 39 on"),
        ("lower-case", WHOLE, "waiting for record 1 of 1024 .*the right record in lower case"),
        ("no-end", WHOLE, r"after the ack of the last of 1024 records.*accepted: b'@16##'"),
        ("dies", WHOLE, "waiting for record 6 .*closed the connection.*process ended with status 7"),
        ("denies", WHOLE, r"came: +b'@0#' \(update denied\).*accepted: b'@4#'"),
    ],
)
def test_broken_server_fails(judge: Judge, fault: str, case: str, reason: str) -> None:
    """A broken server fails by the case that is about its fault, with the reason in the message."""
    judged = judge(server_target("--fault", fault), "-k", case)

    assert judged.verdicts == ["FAIL"]
    assert judged.exit_code == 1
    assert_says(judged, f"^FAIL: .*{reason}.*wire log")


def test_server_that_does_not_wait_for_the_ack_fails(judge: Judge) -> None:
    """A server that declares to wait for the ack of its permission, and does not, fails."""
    judged = judge(server_target("--fault", "early", more='handshake = "wait"'), "-k", WHOLE)

    assert judged.verdicts == ["FAIL"]
    assert_says(judged, r"after b'@4#', before the device acked it.*came: +b'S1.*accepted: nothing yet")


@pytest.mark.parametrize(
    ("fault", "case", "reason"),
    [
        ("drops", FLASH, "16 bytes that differ: 0x00004030: nothing"),
        ("wrong-flash", FLASH, "0x00004002: 00 .image: 01."),
        ("double-ack", ACKS, r"after record 1 of 86 and its ack.*came: +b'@'.*one frame, one ack"),
        ("silent", ACKS, "after record 3 of 86.*came: +nothing for 3 s"),
        ("nack", ACKS, r"after record 1 of 86.*came: +b'\?' is no ack"),
        ("wrong-id", ACKS, r"after the device connected.*came: +b'@77777"),
        ("refuses", OUTCOME, "'outcome': 'failed'.*accepted: outcome 'updated'"),
    ],
)
def test_broken_device_fails(judge: Judge, fault: str, case: str, reason: str) -> None:
    """A broken device fails by the case that is about its fault, with the reason in the message."""
    judged = judge(device_target("--fault", fault), "-k", case)

    assert judged.verdicts == ["FAIL"]
    assert judged.exit_code == 1
    assert_says(judged, f"^FAIL: .*{reason}.*wire log")


def test_device_that_acks_unasked_fails(judge: Judge) -> None:
    """A device that declares not to ack its permission, and does, is one ack ahead: its last one is too many."""
    judged = judge(device_target("--acks-permission"), "-k", ACKS)

    assert judged.verdicts == ["FAIL"]
    assert_says(judged, "one frame, one ack")


@pytest.mark.parametrize(
    ("target", "case", "reason"),
    [
        pytest.param(
            server_target("--fault", "never-ready", ready=1),
            WHOLE,
            "never became ready: no sign within 1 s.*its port listening.*output:",
            id="server that is never ready",
        ),
        pytest.param(
            server_target("--no-such-option"),
            WHOLE,
            "never became ready: it ended with status 2.*unrecognized arguments: --no-such-option",
            id="server that ends at once",
        ),
        pytest.param(device_target("--fault", "stays"), ACKS, "still runs 3 s after", id="device that never ends"),
        pytest.param(
            device_target("--fault", "never-comes"), ACKS, "ended before the device connected", id="device that ends"
        ),
        pytest.param(
            device_target("--fault", "no-dump"), FLASH, "flash.s19: No such file", id="dump that is not there"
        ),
        pytest.param(device_target(more=""), FLASH, r"declare flash under \[observe\]", id="flash that is not shown"),
        pytest.param(device_target(more=""), OUTCOME, r"declare outcome under \[observe\]", id="outcome not shown"),
    ],
)
def test_what_nobody_can_see_could_not_be_tested(judge: Judge, target: str, case: str, reason: str) -> None:
    """A target that does not start, end, or show itself is no failure and no pass: the exit code is 3."""
    judged = judge(target, "-k", case)

    assert judged.verdicts == ["COULD-NOT-TEST"]
    assert judged.exit_code == 3
    assert_says(judged, f"^COULD-NOT-TEST: .*{reason}")


def test_server_that_is_never_ready_is_explained_once(judge: Judge) -> None:
    """Only the first case waits for a server that does not start; the others refer to it."""
    judged = judge(server_target("--fault", "never-ready", ready=1))

    assert judged.verdicts == ["COULD-NOT-TEST"] * 2
    assert judged.messages.count("no sign within") == 1


def test_workers_judge_side_by_side(judge: Judge) -> None:
    """With two pytest workers each has a server of its own, and the results are the same."""
    judged = judge(server_target(), "-n", "2")

    assert judged.verdicts == ["PASS"] * 2
    assert judged.exit_code == 0


def test_server_by_address_serves_devices_that_it_knows(judge: Judge, tmp_path: Path) -> None:
    """A server that runs already is judged with its own devices and files."""
    images = [read_firmware(fota_fixtures.path(name)) for name in ("blink_1.s19", "blink_2.s19")]
    devices = tuple(Device.of(f"{index:025d}", image, f"1{index}") for index, image in enumerate(images))
    provision(tmp_path / "registry.txt", tmp_path, Surroundings(devices))
    port = free_port("127.0.0.1")
    values = {"{host}": "127.0.0.1", "{port}": str(port), "{registry}": "registry.txt", "{firmware}": "."}
    options = [values.get(option, option) for option in SERVER_OPTIONS]
    known = [
        f'[[devices]]\nmcuid = "{device.mcuid}"\nfile = "{device.file}"\nversion = "{device.version}"\n'
        for device in devices
    ]
    about = f'kind = "server-by-address"\nrevision = "A"\nhost = "127.0.0.1"\nport = {port}\n'

    with Child((sys.executable, str(TINY_SERVER), *options), tmp_path) as server:
        assert server.wait_until(lambda: port_is_listening(port), 20.0)
        judged = judge(about + "".join(known))
        judged_with_one = judge(about + known[0], "-k", EACH)

    assert judged.verdicts == ["PASS"] * 2
    assert judged_with_one.verdicts == ["COULD-NOT-TEST"]
    assert_says(judged_with_one, "declares 1 devices with different images, this case takes 2")


def test_results_keep_what_each_case_saw(judge: Judge, tmp_path: Path) -> None:
    """Beside the verdicts stand the wire log, the target's output, and Allure's results with labels and steps."""
    judged = judge(server_target(), "-k", EACH)

    results = tmp_path / "results"
    (case,) = judged.results["cases"]
    assert (judged.results["format"], judged.results["version"]) == ("fota-conformance-results", 1)
    assert case["id"] == "test_server_update.py::test_each_device_gets_its_own_image"
    assert case["tags"] == ["MUST", "seed"]
    assert "identification of" in (results / case["files"] / "wire.log").read_text()
    assert (results / case["files"] / "target-output.log").read_text() == "listening\n"
    (allure,) = [json.loads(path.read_text()) for path in results.glob("allure-results/*-result.json")]
    labels = {label["name"]: label["value"] for label in allure["labels"]}
    assert (labels["epic"], labels["feature"]) == ("server", "A whole update")
    assert {"wire.log", "target-output.log"} == {attachment["name"] for attachment in allure["attachments"]}
    assert "the server ends the transfer" in [step["name"] for step in allure["steps"]]
    assert "target" in [parameter["name"] for parameter in allure["parameters"]]
    side_files = {"environment.properties", "executor.json", "categories.json"}
    assert side_files <= {path.name for path in results.glob("allure-results/*")}


def test_old_results_do_not_pass_for_new_ones(judge: Judge, tmp_path: Path) -> None:
    """A dump that an earlier run left is not taken for the dump of a device that writes none."""
    judge(device_target(), "-k", FLASH)
    assert list((tmp_path / "results").rglob("flash.s19"))

    judged = judge(device_target("--fault", "no-dump"), "-k", FLASH)

    assert judged.verdicts == ["COULD-NOT-TEST"]


def test_stale_observation_outside_the_results_is_removed(judge: Judge, tmp_path: Path) -> None:
    """Where a device writes to a place of its own, what lies there from before is no observation."""
    (tmp_path / "dump.s19").write_bytes(fota_fixtures.read("blink_2.s19"))

    judged = judge(device_target(more='[observe]\nflash = "dump.s19"\n'), "-k", FLASH)

    assert judged.verdicts == ["COULD-NOT-TEST"]


def test_json_is_written_where_asked(judge: Judge, tmp_path: Path) -> None:
    """`--json` gets the same results."""
    judged = judge(device_target(), "-k", ACKS, "--json", str(tmp_path / "verdicts.json"))

    assert judged.results == json.loads((tmp_path / "verdicts.json").read_text())


def run_command(*arguments: str) -> int:
    """The command's exit code."""
    return main(["conformance", *arguments])


def test_wrong_target_file_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong target file gives one line and exit code 2, and nothing is written."""
    path = tmp_path / "target.toml"
    path.write_text('kind = "server-by-command"\nrevision = "A"\n')

    code = run_command("run", "--target", str(path), "--results", str(tmp_path / "results"))

    assert code == 2
    assert f"fota: {path}: command: missing, expected a command: a list of strings, or one string\n" == (
        capsys.readouterr().err
    )
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("options", [("-k", "no_such_case"), ("-k", "not ("), ("-n", "-1"), ("--json", "/none/x.json")])
def test_wrong_option_is_a_usage_error(tmp_path: Path, options: tuple[str, ...]) -> None:
    """An option that selects nothing or makes no sense gives exit code 2."""
    path = tmp_path / "target.toml"
    path.write_text(device_target())

    assert run_command("run", "--target", str(path), "--results", str(tmp_path / "results"), *options) == 2


@pytest.mark.parametrize("module", ["pytest", "allure"])
def test_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], module: str
) -> None:
    """A base install is told which extra the command needs."""
    monkeypatch.setitem(sys.modules, module, None)

    assert run_command("run", "--target", "target.toml") == 2
    assert 'needs pip install "k60-fota[conformance]"' in capsys.readouterr().err


def test_examples_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """`examples` prints where the example target files are."""
    assert run_command("examples") == 0

    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert {"by_address.toml", "our_device.toml", "our_server.toml", "seed_server.toml"} == {
        path.name for path in paths
    }
    assert load_target(next(path for path in paths if path.name == "our_server.toml")).name == "k60-fota server"


def assert_says(judged: Judged, pattern: str) -> None:
    """The cases' messages match, over several lines."""
    assert re.search(f"(?s){pattern}", judged.messages), judged.messages
