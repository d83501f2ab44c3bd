"""The results of a run: what requirements and the run come to, as JSON, as a table, and as schemas promise it."""

import datetime
import json
import tomllib
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from fota_conformance.errors import TargetError
from fota_conformance.results import CaseResult, RunResult, write_json
from fota_conformance.target import ServerCommand
from fota_conformance.target_file import load_target
from fota_conformance.verdicts import Verdict

BOUND = "FOTA-ACK-wrong"
"""A MUST of the seed's: it binds everybody."""
OURS = "FOTA-ACK-surplus-ends"
"""A MUST of this project's: it binds its profile alone."""
SERVER = """
kind = "server-by-command"
name = "a server"
revision = "A"
command = "serve --port {port}"
"""


def target(tmp_path: Path, more: str = "") -> ServerCommand:
    """A server that is never started."""
    path = tmp_path / "target.toml"
    path.write_text(SERVER + more)
    loaded = load_target(path)
    assert isinstance(loaded, ServerCommand)
    return loaded


def case(name: str, verdict: Verdict = Verdict.PASS, *requirements: str, exclusion: str = "") -> CaseResult:
    """A case that took 1.5 seconds and cites `BOUND` unless told otherwise."""
    return CaseResult(
        id=f"test_server_acks.py::test_{name}",
        title=f"The server does {name}.",
        role="server",
        chapter="server-acks",
        requirements=requirements or (BOUND,),
        verdict=verdict,
        exclusion=exclusion,
        duration_s=1.5,
        started_s=0.25,
        message="" if verdict is Verdict.PASS else f"{verdict.value}: {name} went ill\n  came:     b'?'",
        files=f"cases/{name}",
    )


def run(
    tmp_path: Path,
    *cases: CaseResult,
    complete: bool = True,
    planned: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
    more: str = "",
) -> RunResult:
    """A run that took a minute."""
    return RunResult(
        target=target(tmp_path, more),
        started="2026-11-23T12:00:00+00:00",
        duration_s=60.0,
        cases=cases,
        complete=complete,
        planned=planned,
        notes=notes,
    )


def schema(name: str) -> Draft202012Validator:
    """A validator of one of the kit's schemas, which is itself in order."""
    content = json.loads((resources.files("fota_conformance") / "schemas" / f"{name}.json").read_text(encoding="utf-8"))
    Draft202012Validator.check_schema(content)
    return Draft202012Validator(content, format_checker=Draft202012Validator.FORMAT_CHECKER)


def requirement(result: RunResult, id: str) -> dict[str, Any]:
    """What one requirement came to, as JSON."""
    found: list[dict[str, Any]] = [item for item in result.as_json()["requirements"] if item["id"] == id]
    assert len(found) == 1
    return found[0]


def test_a_requirement_has_the_worst_verdict_of_its_cases(tmp_path: Path) -> None:
    """One case that fails is a requirement that is not met, however many others pass."""
    result = run(tmp_path, case("a"), case("b", Verdict.FAIL), case("c"))

    found = requirement(result, BOUND)
    assert "FAIL" == found["verdict"]
    assert found["binds"]
    assert ["a", "b", "c"] == [id[-1] for id in found["cases"]]
    assert 4.5 == found["duration_s"]


def test_a_requirement_that_does_not_bind_cannot_fail(tmp_path: Path) -> None:
    """Where a case cites what binds and what does not, its failure is one of the first kind alone."""
    failed = case("a", Verdict.FAIL, BOUND, OURS)

    strangers = run(tmp_path, failed)
    ours = run(tmp_path, failed, more='profile = "k60-fota"')

    assert ("FAIL", "NON-STRICT") == tuple(requirement(strangers, id)["verdict"] for id in (BOUND, OURS))
    assert ("FAIL", "FAIL") == tuple(requirement(ours, id)["verdict"] for id in (BOUND, OURS))
    assert not requirement(strangers, OURS)["binds"]


def test_an_excluded_case_does_not_count(tmp_path: Path) -> None:
    """Neither its requirement nor the run is judged by it; it is reported all the same."""
    result = run(tmp_path, case("a"), case("b", Verdict.FAIL, exclusion="known, #12"))

    assert 0 == result.exit_code
    assert {"verdict": "PASS", "excluded": 1}.items() <= requirement(result, BOUND).items()
    assert {"PASS": 1, "FAIL": 0, "EXCLUDED": 1}.items() <= result.as_json()["summary"].items()
    assert () == result.remarks


def test_a_requirement_whose_cases_are_all_excluded_has_no_verdict(tmp_path: Path) -> None:
    """Nobody knows, and nobody wanted to."""
    result = run(tmp_path, case("a", Verdict.PASS, OURS), case("b", Verdict.FAIL, exclusion="known"))

    assert requirement(result, BOUND)["verdict"] is None
    assert 0 == result.exit_code


def test_an_excluded_case_that_passes_is_reported(tmp_path: Path) -> None:
    """An exclusion that no longer has a cause is dropped; one that has it in part is narrowed."""
    whole = run(tmp_path, case("a", exclusion="known"), notes=("an exclusion expired",))
    part = run(tmp_path, case("a", exclusion="known"), case("b", Verdict.FAIL, exclusion="known"))

    note = "test_server_acks.py::test_a: excluded (known), but passes: drop the exclusion"
    assert ("an exclusion expired", note) == whole.remarks
    assert [*whole.remarks] == whole.as_json()["notes"]
    assert f"  {note}" in whole.table()
    assert (note.replace("drop", "narrow"),) == part.remarks


@pytest.mark.parametrize(
    ("cases", "facts", "code"),
    [
        ([case("a")], {}, 0),
        ([case("a"), case("b", Verdict.NON_STRICT, OURS)], {}, 0),
        ([case("a"), case("b", Verdict.NOT_IMPLEMENTED, OURS)], {}, 0),
        ([case("a"), case("b", Verdict.NOT_IMPLEMENTED)], {}, 0),
        ([case("a", Verdict.FAIL)], {"complete": False}, 1),
        ([case("a", Verdict.FAIL), case("b", Verdict.HARNESS_ERROR)], {}, 1),
        ([case("a"), case("b", Verdict.COULD_NOT_TEST)], {}, 3),
        ([case("a"), case("b", Verdict.HARNESS_ERROR)], {}, 3),
        ([case("a"), case("b", Verdict.COULD_NOT_TEST, exclusion="known")], {}, 0),
        ([case("a", Verdict.PASS, OURS), case("b", Verdict.NOT_IMPLEMENTED)], {}, 3),
        ([case("a")], {"complete": False}, 3),
        ([case("a")], {"planned": (BOUND, "FOTA-ACK-line-end")}, 3),
        ([case("a")], {"planned": (BOUND, OURS)}, 0),
        ([case("a", exclusion="known")], {}, 3),
        ([case("a", Verdict.NOT_IMPLEMENTED, OURS)], {}, 3),
        ([], {}, 3),
    ],
)
def test_a_run_has_an_exit_code(tmp_path: Path, cases: list[CaseResult], facts: dict[str, Any], code: int) -> None:
    """0 says that every selected MUST was exercised and passed, and nothing less."""
    assert code == run(tmp_path, *cases, **facts).exit_code


def test_a_run_says_what_is_missing(tmp_path: Path) -> None:
    """Who has exit code 3 and no failure can read why."""
    cases = (case("a"), case("b", Verdict.NOT_IMPLEMENTED, "FOTA-ACK-line-end"))
    result = run(tmp_path, *cases, complete=False, planned=("FOTA-ACK-wrong-survived",))

    assert (
        "the run is not complete: it was ended by its first failure (-x), interrupted, or the kit broke down",
        "MUSTs of which no case was played: FOTA-ACK-wrong-survived",
        "MUSTs that came only to NOT-IMPLEMENTED: FOTA-ACK-line-end",
    ) == result.shortfalls
    assert [*result.shortfalls] == result.as_json()["shortfalls"]


def test_the_table_shows_what_matters(tmp_path: Path) -> None:
    """Chapters are counted, what is no PASS is shown, and what failed stands at the end with its reason."""
    cases = (case("a"), case("b", Verdict.FAIL, BOUND, OURS), case("c", Verdict.NON_STRICT, OURS))

    lines = run(tmp_path, *cases).table()

    assert [
        "a server (server-by-command, revision A, immediate)",
        "",
        "server: Acks                           1 PASS, 1 NON-STRICT, 1 FAIL  (4.5 s)",
        "  FAIL            The server does b.  (1.50 s)",
        "  NON-STRICT      The server does c.  (1.50 s)",
        "",
        "what failed:",
        "  FOTA-ACK-wrong FOTA-ACK-surplus-ends",
        "    test_server_acks.py::test_b",
        "      FAIL: b went ill",
        "      came:     b'?'",
        "",
        "what is not strict:",
        "  FOTA-ACK-surplus-ends",
        "    test_server_acks.py::test_c",
        "      NON-STRICT: c went ill",
        "      came:     b'?'",
        "",
        "1 PASS, 1 NON-STRICT, 1 FAIL",
        "exit code 1: at least one case failed",
    ] == lines


def test_the_table_shows_every_case_on_request(tmp_path: Path) -> None:
    """Who wants to see what passed, does."""
    result = run(tmp_path, case("a"))

    assert "  PASS            The server does a.  (1.50 s)" in result.table(verbose=True)
    assert "  PASS            The server does a.  (1.50 s)" not in result.table()


def test_the_table_does_not_repeat_one_trouble(tmp_path: Path) -> None:
    """A server that does not start is said once, not once a case."""
    alike = replace(case("a", Verdict.COULD_NOT_TEST), message="COULD-NOT-TEST: the server did not start")
    cases = [replace(alike, id=f"test_x.py::test_{number}") for number in range(60)]

    lines = run(tmp_path, *cases).table()

    assert 1 == sum("did not start" in line for line in lines)
    assert "    test_x.py::test_0 and 59 more" in lines


def test_chapters_are_in_the_catalogue_s_order(tmp_path: Path) -> None:
    """However the cases were played, a reader finds them where the catalogue has them."""
    sanity = replace(case("s"), chapter="server-sanity")

    chapters = run(tmp_path, case("a"), sanity, case("b")).by_chapter()

    assert ["server: Sanity", "server: Acks"] == list(chapters)


def test_a_file_is_as_its_schema_says(tmp_path: Path) -> None:
    """`results.json` of a run in which everything occurs is valid, and a key too many is not."""
    cases = [case(f"v{number}", verdict) for number, verdict in enumerate(Verdict)]
    result = run(tmp_path, *cases, case("x", exclusion="known"), complete=False, planned=(OURS,))
    path = tmp_path / "deep" / "results.json"
    write_json(result, path)
    content = json.loads(path.read_bytes())

    schema("results-2").validate(content)

    assert not schema("results-2").is_valid(content | {"surplus": 1})
    assert not schema("results-2").is_valid({key: content[key] for key in content if key != "cases"})
    assert [path] == list(path.parent.iterdir())


def test_text_that_utf_8_cannot_hold_is_written(tmp_path: Path) -> None:
    """A target's half a surrogate does not cost the results."""
    broken = replace(case("a"), message="\udc80")

    write_json(run(tmp_path, broken), tmp_path / "results.json")

    assert "\udc80" == json.loads((tmp_path / "results.json").read_bytes())["cases"][0]["message"]


@pytest.mark.parametrize(
    ("outcome", "is_valid"),
    [
        ({"outcome": "updated"}, True),
        ({"outcome": "failed", "reason": "link", "booted": None, "image_crc": "0123abCD", "records": 4}, True),
        ({"outcome": "refused", "reason": None, "booted": False, "image_crc": None}, True),
        ({"outcome": "fine"}, False),
        ({"reason": "link"}, False),
        ({"outcome": "updated", "booted": 1}, False),
        ({"outcome": "updated", "image_crc": "0x1234"}, False),
    ],
)
def test_an_outcome_is_as_its_schema_says(outcome: dict[str, Any], is_valid: bool) -> None:
    """A device's author can check what the device writes."""
    assert is_valid == schema("outcome-1").is_valid(outcome)


def plain(value: Any) -> Any:
    """TOML as JSON: a date is its text."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.isoformat() if isinstance(value, datetime.date) else value


EXAMPLES = sorted(str(file.name) for file in (resources.files("fota_conformance") / "examples").iterdir())


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name.endswith(".toml")])
def test_an_example_is_as_the_schema_of_targets_says(name: str) -> None:
    """What the kit shows to copy from, it accepts."""
    text = (resources.files("fota_conformance") / "examples" / name).read_text(encoding="utf-8")

    schema("target-1").validate(plain(tomllib.loads(text)))


DEVICE = """
kind = "device-by-command"
revision = "B"
command = ["mcu", "{port}", "{mcuid}"]
"""
ADDRESS = """
kind = "server-by-address"
revision = "B"
host = "10.0.0.1"
port = 4000
devices = [{mcuid = "0A", file = "target.toml", version = "1F"}]
"""
FULL_SERVER = """
handshake = "auto"
profile = "k60-fota"
scale = 2
host = "::1"
provision = "register {table}"
concurrency = 50
ready = {log = "listening"}
timeouts = {ready = 1, answer = 1, grace = 1, frame = 1, close = 1, exit = 1, stop = 0.5}
deadlines = {identification = 3, ack = 3, end_ack = 3, grace = 1}
capabilities = {process = false, registry-text = false, registry = false, concurrency = false}
exclusions = [
  {requirement = "FOTA-ACK-wrong", reason = "known", until = 2027-01-31},
  {case = "test_x*", reason = "known", until = 2027-01-31},
]
"""
FULL_DEVICE = """
reset = ["board", "reset", "{pid}"]
power_off = "relay off"
power_on = "relay on"
deadlines = {answer = 5, frame = 5}
memory = {application = [0x8000, 0x100000], sector = 4096}
limits = {max_erases_per_sector = 100, max_minutes = 90}
observe = {flash = "{artifacts}/f.bin", flash_address = 0x4000, outcome = "{artifacts}/o.json"}
capabilities = {seal = true, vectors = false, bootloader = true, power = false, flash = false, outcome = false}
concurrency = 2
"""


@pytest.mark.parametrize(
    ("text", "is_valid"),
    [
        (SERVER, True),
        (SERVER + FULL_SERVER, True),
        (SERVER + "ready = {listening = true}", True),
        (SERVER + 'ready = {file = "{logs}/up"}', True),
        (SERVER + "concurrency = 0", False),
        (SERVER + "deadline = {ack = 1}", False),
        (SERVER + "deadlines = {answer = 1}", False),
        (SERVER + "timeouts = {frame = 0}", False),
        (SERVER + 'ready = {file = "up", log = "up"}', False),
        (SERVER + "capabilities = {process = true}", False),
        (SERVER + "capabilities = {seal = false}", False),
        (SERVER + 'profile = "ours"', False),
        (SERVER + 'exclusions = [{requirement = "FOTA-ACK-wrong", until = 2027-01-31}]', False),
        (SERVER + 'exclusions = [{reason = "known", until = 2027-01-31}]', False),
        (SERVER + 'exclusions = [{case = "x", reason = "known", until = "soon"}]', False),
        (SERVER.replace("{port}", "4000"), False),
        (SERVER.replace('"A"', '"C"'), False),
        (SERVER.replace("command =", "commands ="), False),
        (SERVER.replace("server-by-command", "server"), False),
        (DEVICE, True),
        (DEVICE + FULL_DEVICE, True),
        (DEVICE + "mcuid = 4", False),
        (DEVICE + 'power = "off"', False),
        (DEVICE + "memory = {application = [0x4000]}", False),
        (DEVICE + "memory = {sector = 1000}", False),
        (DEVICE + "limits = {max_minutes = 0}", False),
        (DEVICE + "observe = {flash_address = -1}", False),
        (DEVICE + "deadlines = {ack = 1}", False),
        (ADDRESS, True),
        (ADDRESS + "deadlines = {ack = 5}\nconcurrency = 4", True),
        (ADDRESS.replace("4000", "0"), False),
        (ADDRESS.replace('"1F"', '"1f"'), False),
        (ADDRESS.replace("file =", "image ="), False),
        (ADDRESS + 'command = "serve {port}"', False),
    ],
)
def test_the_schema_of_targets_agrees_with_the_kit(tmp_path: Path, text: str, is_valid: bool) -> None:
    """What the schema accepts the kit reads, what the schema refuses the kit refuses."""
    path = tmp_path / "target.toml"
    path.write_text(text)
    try:
        load_target(path)
        is_read = True
    except TargetError:
        is_read = False

    assert (is_valid, is_valid) == (schema("target-1").is_valid(plain(tomllib.loads(text))), is_read)
