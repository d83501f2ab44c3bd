"""The kit judges: verdicts and exit codes, what it tells apart, what it keeps, and how it gets on with any target.

The targets are of the zoo, independent of the product. Runs are real: the command, pytest in a process of its own, the
target in another. That every case catches what it is about is the business of `test_mutants.py`.
"""

import contextlib
import datetime
import json
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import fota_fixtures
from fota_cli.main import main
from fota_conformance.hosts import Device, Surroundings, provision
from fota_conformance.images import made
from fota_conformance.ports import free_port
from fota_conformance.process import Child, port_is_listening

PYTHON = [sys.executable, "-m", "fota_conformance.zoo"]
SERVER_OPTIONS = [
    *("--host", "{host}", "--port", "{port}", "--registry", "{registry}", "--firmware", "{firmware}"),
    *("--logs", "{logs}", "--deadline", "1.5", "--grace", "0.4"),
]
DEVICE_OPTIONS = [
    *("--server", "{host}:{port}", "--mcuid", "{mcuid}", "--deadline", "1.5"),
    *("--flash", "{artifacts}/flash.bin", "--outcome", "{artifacts}/outcome.json"),
]
SERVER_TIMES = """
[deadlines]
identification = 1.5
ack = 1.5
end_ack = 1.5
grace = 0.4
[timeouts]
frame = 3
answer = 3
close = 3
"""
DEVICE_TIMES = """
[deadlines]
answer = 1.5
frame = 1.5
[timeouts]
frame = 3
answer = 3
close = 3
exit = 3
grace = 0.5
"""
OBSERVE = '[observe]\nflash = "{artifacts}/flash.bin"\noutcome = "{artifacts}/outcome.json"\n'


def server_target(*options: str, more: str = "", tables: str = "", revision: str = "A") -> str:
    """A server of the zoo; `more` are keys, `tables` tables of the file."""
    command = json.dumps([*PYTHON, "server", *SERVER_OPTIONS, *options])
    head = f'kind = "server-by-command"\nname = "zoo"\nrevision = "{revision}"\ncommand = {command}\n'
    return f"{head}{more}\n{tables}\n{SERVER_TIMES}"


def device_target(*options: str, more: str = "", tables: str = OBSERVE, revision: str = "A") -> str:
    """A device of the zoo."""
    command = json.dumps([*PYTHON, "device", *DEVICE_OPTIONS, *options])
    head = f'kind = "device-by-command"\nname = "zoo"\nrevision = "{revision}"\ncommand = {command}\n'
    return f"{head}{more}\n{tables}\n{DEVICE_TIMES}"


def telling_by_file(target: str) -> str:
    """The same, with a shell around it that makes a file once the server says that it listens."""
    command = " ".join([*PYTHON, "server", *SERVER_OPTIONS])
    watch = "(until grep -q listening {logs}/said; do sleep 0.05; done; touch {logs}/ready) &"
    lines = [line for line in target.splitlines() if not line.startswith("command")]
    shell = json.dumps(["sh", "-c", f"{watch} exec {command} > {{logs}}/said"])
    return f'command = {shell}\nready.file = "{{logs}}/ready"\n' + "\n".join(lines)


SANITY = "sanity"
WRONG_ACK = "FOTA-ACK-wrong"
LEAK = "FOTA-SESSION-no-leak"


@dataclass(frozen=True, slots=True)
class Judged:
    """What one run came to."""

    exit_code: int
    results: dict[str, Any] = field(repr=False)

    @property
    def verdicts(self) -> set[str]:
        return {case["verdict"] for case in self.results["cases"]}

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


def only(*requirements: str) -> list[str]:
    """The options for some requirements."""
    return [word for name in requirements for word in ("--requirement", name)]


def exclusion(requirement: str, until: datetime.date) -> str:
    """A table of the target file."""
    return f'[[exclusions]]\nrequirement = "{requirement}"\nreason = "ticket 7"\nuntil = {until}\n'


TOMORROW = datetime.date.today() + datetime.timedelta(days=1)
YESTERDAY = datetime.date.today() - datetime.timedelta(days=1)


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(server_target(), id="revision A"),
        pytest.param(server_target("--revision", "B", "--handshake", "wait", revision="B"), id="revision B"),
        pytest.param(server_target("--handshake", "auto", more='handshake = "auto"'), id="both sorts of device"),
        pytest.param(server_target(more="ready.log = '^listening'"), id="ready by a log line"),
        pytest.param(telling_by_file(server_target()), id="ready by a file"),
        pytest.param(device_target(), id="device of revision A"),
        pytest.param(device_target("--acks-permission", more='handshake = "wait"'), id="device that acks @4#"),
        pytest.param(device_target(more='handshake = "auto"'), id="device found not to ack"),
        pytest.param(device_target("--acks-permission", more='handshake = "auto"'), id="device found to ack"),
    ],
)
def test_good_target_passes(judge: Judge, target: str) -> None:
    """A good server or device is found ready, played with in its own way, and passes."""
    judged = judge(target, "-k", SANITY)

    assert {"PASS"} == judged.verdicts
    assert judged.exit_code == 0


def test_failure_says_what_a_user_must_know(judge: Judge, tmp_path: Path) -> None:
    """A failure names situation, bytes sent and come, what was accepted, the requirement, and shows the wire."""
    judged = judge(server_target("--fault", "any-byte-acks"), *only(WRONG_ACK))

    assert judged.exit_code == 1
    failed = next(case for case in judged.results["cases"] if case["verdict"] == "FAIL")
    for word in (
        "FAIL: ",
        "  sent:     ",
        "  came:     ",
        "  accepted: ",
        f"  {WRONG_ACK} (MUST, seed): Anything but `@`",
    ):
        assert word in failed["message"]
    assert "wire log (seconds" in failed["message"]
    assert "update allowed" in (tmp_path / "results" / failed["files"] / "wire.log").read_text()


def test_departure_from_what_does_not_bind_is_non_strict(judge: Judge) -> None:
    """Our own decisions bind our profile; elsewhere a departure is told and is no failure, unless asked for."""
    target = server_target("--fault", "waits-for-hash")
    ours = target.replace('name = "zoo"', 'name = "zoo"\nprofile = "k60-fota"')
    asked = only("FOTA-ID-malformed-at-once")

    judged = judge(target, *asked)

    assert "NON-STRICT" in judged.verdicts
    assert judged.exit_code == 0
    assert "NON-STRICT: " in judged.messages
    assert judge(target, *asked, "--strict").exit_code == 1
    assert "FAIL" in judge(ours, *asked).verdicts


@pytest.mark.parametrize(
    ("requirement", "code"),
    [
        (LEAK, 3),
        ("FOTA-STOP-finishes", 0),
    ],
)
def test_what_a_target_lacks_is_not_implemented(judge: Judge, requirement: str, code: int) -> None:
    """A capability that is declared absent is no failure; a MUST that was not exercised is not well either."""
    judged = judge(server_target(tables="[capabilities]\nprocess = false\n"), *only(requirement, "FOTA-UPDATE-whole"))

    assert {"PASS", "NOT-IMPLEMENTED"} == judged.verdicts
    assert judged.exit_code == code


def test_what_a_target_does_not_show_could_not_be_tested(judge: Judge) -> None:
    """A device that shows no flash is told what to declare."""
    judged = judge(device_target(tables=""), *only("FOTA-DEV-flash"))

    assert {"COULD-NOT-TEST"} == judged.verdicts
    assert judged.exit_code == 3
    assert "the target does not offer 'flash' (a dump of the flash: flash under [observe])" in judged.messages


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (
            server_target().replace('"fota_conformance.zoo"', '"time"') + "ready = 1\n",
            "never became ready: it ended with status",
        ),
        (server_target().replace('"--port"', '"--prot"'), "the following arguments are required: --port"),
        (device_target().replace('"--server"', '"--sever"'), "the device's command ended before the device connected"),
        (
            device_target("--fault", "never-ends"),
            "the device's command still runs 3 s after the connection was closed",
        ),
    ],
    ids=["server that ends", "server with a wrong option", "device that never comes", "device that stays"],
)
def test_target_that_does_not_play_could_not_be_tested(judge: Judge, target: str, reason: str) -> None:
    """A target that does not start or end is no failure and no pass: the reason is told, and the exit code is 3."""
    judged = judge(target, "-k", SANITY)

    assert {"COULD-NOT-TEST"} == judged.verdicts
    assert judged.exit_code == 3
    assert reason in judged.messages


def test_exclusion_is_no_failure_and_is_told(judge: Judge, tmp_path: Path) -> None:
    """An excluded case runs, and what it comes to does not count."""
    judged = judge(
        server_target("--fault", "any-byte-acks", tables=exclusion(WRONG_ACK, TOMORROW)),
        *only(WRONG_ACK, "FOTA-END-closed"),
    )

    assert judged.exit_code == 0
    assert {case["exclusion"] for case in judged.results["cases"]} == {"", "ticket 7"}
    junit = ElementTree.parse(tmp_path / "results" / "junit.xml")
    assert [one.get("message") for one in junit.iter("skipped")] != []


def test_excluded_case_that_passes_is_reported(judge: Judge, capfd: pytest.CaptureFixture[str]) -> None:
    """An exclusion that is not needed any more is named."""
    judged = judge(server_target(tables=exclusion("FOTA-END-closed", TOMORROW)), *only("FOTA-END-closed"), "-k", "end")

    assert "PASS" in judged.verdicts
    assert "drop the exclusion" in capfd.readouterr().out


def test_exclusion_ends_with_its_day(judge: Judge, capfd: pytest.CaptureFixture[str]) -> None:
    """An exclusion that has expired counts no more, and that is said."""
    judged = judge(server_target("--fault", "any-byte-acks", tables=exclusion(WRONG_ACK, YESTERDAY)), *only(WRONG_ACK))

    assert judged.exit_code == 1
    assert f"the exclusion of {WRONG_ACK} ended on {YESTERDAY}" in capfd.readouterr().out


@pytest.mark.parametrize("workers", ["0", "2"])
def test_target_that_fails_sanity_is_not_a_wall_of_failures(judge: Judge, workers: str) -> None:
    """Where the first update fails, it fails once, and the rest refers to it."""
    judged = judge(server_target("--fault", "denies-all"), "-n", workers)

    failed = [case for case in judged.results["cases"] if case["verdict"] == "FAIL"]
    assert ["test_server_sanity.py::test_first_update", "test_server_sanity.py::test_last_update"] == sorted(
        case["id"] for case in failed
    )
    assert {"FAIL", "COULD-NOT-TEST"} == judged.verdicts
    assert "the sanity case fails, so that nothing else was tried" in judged.messages


def test_server_that_dies_is_named_and_started_again(judge: Judge) -> None:
    """A dead server fails the case in which it died, and the next case has a fresh one."""
    judged = judge(
        server_target("--fault", "d06-wrong-ack-kills"), *only("FOTA-ACK-wrong-survived", "FOTA-ACK-line-end")
    )

    dead = [case for case in judged.results["cases"] if case["verdict"] == "FAIL"]
    assert {("FOTA-ACK-wrong-survived",)} == {tuple(case["requirements"]) for case in dead}
    assert all("process ended with status" in case["message"] for case in dead)
    assert "PASS" in judged.verdicts


def test_waiting_cases_run_side_by_side(judge: Judge) -> None:
    """Cases that wait for deadlines take less time than their sum; each keeps its own wire log and duration."""
    judged = judge(server_target(), "-k", "deadlines")

    cases = judged.results["cases"]
    assert {"PASS"} == judged.verdicts
    assert sum(case["duration_s"] for case in cases) > judged.results["duration_s"]
    assert all(case["duration_s"] > 1.0 for case in cases)


def test_two_workers_come_to_the_same_verdicts(judge: Judge) -> None:
    """With two pytest workers each has a server of its own, and the results are the same."""
    asked = only("FOTA-FILE-missing", "FOTA-TIME-silent", "FOTA-END-version", "FOTA-ID-split", "FOTA-FILE-inside")

    alone = judge(server_target("--fault", "d15-one-read"), *asked)
    together = judge(server_target("--fault", "d15-one-read"), *asked, "-n", "2")

    assert {case["id"]: case["verdict"] for case in alone.results["cases"]} == {
        case["id"]: case["verdict"] for case in together.results["cases"]
    }


def test_provision_command_tells_the_server_its_devices(judge: Judge, tmp_path: Path) -> None:
    """A server with a registry of its own is told by `provision`, which gets a table of devices and files."""
    script = tmp_path / "fill.py"
    script.write_text(
        "import json, sys\n"
        "table = json.load(open(sys.argv[1]))\n"
        "lines = [','.join((one['mcuid'], one['file'], one['version'])) for one in table['devices']]\n"
        "open(sys.argv[2], 'w').write('\\n'.join(lines))\n"
    )
    target = server_target(more=f'provision = ["{sys.executable}", "fill.py", "{{table}}", "{{logs}}/own.txt"]')
    target = target.replace("{registry}", "{logs}/own.txt")

    assert judge(target, "-k", SANITY).exit_code == 0
    script.write_text("raise SystemExit('no database')")
    judged = judge(target, "-k", SANITY)
    assert {"COULD-NOT-TEST"} == judged.verdicts
    assert "provision command ended with status 1" in judged.messages
    assert "no database" in judged.messages


@pytest.fixture
def known_server(tmp_path: Path) -> tuple[str, Callable[[], Child]]:
    """The target file of a server by address with six devices, and a way to start that server."""
    images = [made(number) for number in range(6)]
    devices = tuple(Device.of(f"{index:025d}", image, f"1{index}") for index, image in enumerate(images))
    (tmp_path / "firmware").mkdir()
    provision(tmp_path / "registry.txt", tmp_path / "firmware", Surroundings(devices))
    port = free_port("127.0.0.1")
    places = ("--registry", "registry.txt", "--firmware", "firmware", "--deadline", "1.5", "--grace", "0.4")
    known = "".join(
        f'[[devices]]\nmcuid = "{one.mcuid}"\nfile = "firmware/{one.file}"\nversion = "{one.version}"\n'
        for one in devices
    )
    head = f'kind = "server-by-address"\nrevision = "A"\nhost = "127.0.0.1"\nport = {port}\n'

    def start() -> Child:
        child = Child((*PYTHON, "server", "--port", str(port), *places), tmp_path)
        assert child.wait_until(lambda: port_is_listening(port), 20.0), child.output.since()
        return child

    return f"{head}{{more}}\n{SERVER_TIMES}\n{known}", start


def test_server_by_address_is_judged_with_devices_that_it_knows(
    judge: Judge, known_server: tuple[str, Callable[[], Child]]
) -> None:
    """A server that runs already is judged by what a stranger sees; the rest could not be tested, and says so."""
    text, start = known_server

    with start():
        judged = judge(text.format(more="concurrency = 4"), "-n", "2")

    assert {"PASS", "COULD-NOT-TEST"} == judged.verdicts
    untested = [case for case in judged.results["cases"] if case["verdict"] == "COULD-NOT-TEST"]
    assert all("the target does not offer" in case["message"] for case in untested)
    assert judged.exit_code == 3


def test_server_by_address_bears_as_many_sessions_as_it_says(
    judge: Judge, known_server: tuple[str, Callable[[], Child]], capfd: pytest.CaptureFixture[str]
) -> None:
    """One session at a time is the default: cases that want two are not played, and two workers are refused."""
    text, start = known_server

    with start():
        judged = judge(text.format(more=""), *only("FOTA-SESSION-not-held", "FOTA-TIME-silent", "FOTA-TIME-record-ack"))

    by_requirement = {case["requirements"][0]: case["verdict"] for case in judged.results["cases"]}
    assert by_requirement["FOTA-SESSION-not-held"] == "COULD-NOT-TEST"
    assert by_requirement["FOTA-TIME-silent"] == "PASS"
    with pytest.raises(FileNotFoundError):
        judge(text.format(more=""), "-n", "2")
    assert "2 workers hold 2 sessions, expected concurrency = 2" in capfd.readouterr().err


def test_server_by_address_that_is_gone_blames_no_case(
    judge: Judge, known_server: tuple[str, Callable[[], Child]]
) -> None:
    """Where nobody answers from the start, nothing failed: nothing could be tested."""
    text, _ = known_server

    judged = judge(text.format(more=""), *only("FOTA-ID-split"))

    assert {"COULD-NOT-TEST"} == judged.verdicts
    assert "the last case that reached this server: none did" in judged.messages


def test_board_is_spared(judge: Judge) -> None:
    """A sector is not erased more often than the target file allows; what is left could not be tested."""
    target = device_target(tables=f"{OBSERVE}[limits]\nmax_erases_per_sector = 1\n")

    judged = judge(target, "-k", SANITY)

    assert ["PASS", "COULD-NOT-TEST"] == [case["verdict"] for case in judged.results["cases"]]
    assert "a sector was erased 1 times: max_erases_per_sector is reached" in judged.messages


def test_controls_of_a_board_are_used(judge: Judge, tmp_path: Path) -> None:
    """`reset` runs before each session, with the values of the device's command."""
    target = device_target(more="""reset = ["sh", "-c", "echo {mcuid} >> resets.txt"]""")

    assert judge(target, "-k", SANITY).exit_code == 0
    assert len((tmp_path / "resets.txt").read_text().split()) == 2


def test_control_that_fails_could_not_be_tested(judge: Judge) -> None:
    """A board that cannot be reset is not judged."""
    judged = judge(device_target(more="""reset = ["sh", "-c", "echo no adapter; exit 3"]"""), "-k", SANITY)

    assert {"COULD-NOT-TEST"} == judged.verdicts
    assert "the target's reset command ended with status 3" in judged.messages
    assert "no adapter" in judged.messages


def test_exhaustive_cuts_at_every_record(judge: Judge, tmp_path: Path) -> None:
    """Sampled by default, interruptions are played at every record if asked."""
    target = device_target(more="concurrency = 1")
    sampled = judge(target, "-k", "cut and record", "--verbose").results["cases"]

    code = main(["conformance", "run", "--target", str(tmp_path / "target.toml"), "--help"]) if not sampled else 0
    assert code == 0
    assert 2 <= len(sampled) < 40


def test_several_targets_make_one_page(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Each target has a folder of its own, one page compares them, and the worst decides."""
    for name, fault in (("good", []), ("bad", ["--fault", "no-end"])):
        (tmp_path / f"{name}.toml").write_text(server_target(*fault).replace('"zoo"', f'"{name}"'))
    targets = [word for name in ("good", "bad") for word in ("--target", str(tmp_path / f"{name}.toml"))]

    code = main(["conformance", "run", *targets, "--results", str(tmp_path / "results"), "-k", SANITY])

    assert code == 1
    page = (tmp_path / "results" / "matrix.html").read_text()
    assert all(name in page for name in ("good", "bad", "FOTA-UPDATE-whole"))
    assert f"page: {tmp_path / 'results' / 'matrix.html'}" in capfd.readouterr().out


def test_copies_are_written_where_asked(judge: Judge, tmp_path: Path) -> None:
    """`--json` and `--junit` get the same as the results folder."""
    json_path, junit_path = tmp_path / "verdicts.json", tmp_path / "junit.xml"

    judged = judge(device_target(), "-k", SANITY, "--json", str(json_path), "--junit", str(junit_path))

    assert judged.results == json.loads(json_path.read_text())
    assert ElementTree.parse(junit_path).getroot().get("tests") == "2"


def test_results_keep_what_each_case_saw(judge: Judge, tmp_path: Path) -> None:
    """Beside the verdicts stand the wire log, the target's output, and Allure's results."""
    judged = judge(server_target(), *only("FOTA-TIME-record-ack"))

    results = tmp_path / "results"
    for case in judged.results["cases"]:
        assert "identification of" in (results / case["files"] / "wire.log").read_text()
        assert "listening" in (results / case["files"] / "target-output.log").read_text()
    allure = [json.loads(path.read_text()) for path in results.glob("allure-results/*-result.json")]
    assert all({"wire.log", "target-output.log"} <= {one["name"] for one in case["attachments"]} for case in allure)
    assert all(case["steps"] for case in allure)


def test_stale_observation_is_removed(judge: Judge, tmp_path: Path) -> None:
    """Where a device writes to a place of its own, what lies there from before is no observation."""
    (tmp_path / "dump.s19").write_bytes(fota_fixtures.read("blink_1.s19"))
    tables = '[observe]\nflash = "dump.s19"\n'

    judged = judge(device_target(tables=tables), *only("FOTA-DEV-flash"))

    assert {"COULD-NOT-TEST"} == judged.verdicts
    assert "dump.s19: No such file" in judged.messages


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "a CI server's cancel"])
@pytest.mark.parametrize("workers", ["0", "2"])
def test_interrupted_run_leaves_no_process(tmp_path: Path, workers: str, number: signal.Signals) -> None:
    """An interrupt ends the run and its targets, and the results say that they are not complete."""
    (tmp_path / "target.toml").write_text(server_target())
    command = (
        sys.executable,
        "-m",
        "fota_cli",
        "conformance",
        "run",
        "--target",
        "target.toml",
        "--results",
        "results",
    )

    with Child((*command, "-n", workers), tmp_path) as run:
        assert run.wait_until(lambda: bool(list(tmp_path.glob("results/cases/*deadlines*"))), 60.0), run.output.since()
        servers = zoo_servers()
        run.tell(number)
        status = run.wait(60.0)

    results = json.loads((tmp_path / "results" / "results.json").read_text())
    assert status == 130, run.output.since()
    assert not results["complete"]
    assert servers
    assert servers & zoo_servers() == set()


def zoo_servers() -> set[int]:
    """Servers of the zoo that this test's runs may have started."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if b"fota_conformance.zoo" in words and b"server" in words:
                found.add(int(entry.name))
    return found


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


@pytest.mark.parametrize(
    "options",
    [
        ("-k", "no_such_case"),
        ("-k", "not ("),
        ("-n", "-1"),
        ("--json", "/none/x.json"),
        ("--requirement", "FOTA-NO"),
        ("--requirement", "FOTA-ACK-wrong"),
        ("--results", "/proc/none"),
        ("-n", "1000"),
    ],
)
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


@pytest.mark.parametrize("name", ["results", "target", "outcome"])
def test_schema_is_printed(capsys: pytest.CaptureFixture[str], name: str) -> None:
    """The schemas of what the kit reads and writes are there for programs."""
    assert run_command("schema", name) == 0

    assert "$schema" in json.loads(capsys.readouterr().out)


def test_examples_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """Example target files are found without knowing where the kit is installed."""
    assert run_command("examples") == 0

    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    named = {"our_server.toml", "our_device.toml", "board_by_relay.toml", "by_address.toml", "seed_server.toml"}
    assert named == {one.name for one in paths}
    assert all(path.is_file() for path in paths)
