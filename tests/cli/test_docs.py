"""What the documentation says is what the programs do: tables, examples and links are held against the code."""

import argparse
import dataclasses
import importlib
import inspect
import itertools
import logging
import re
import sqlite3
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

import fota_fixtures
from fota_cli.main import COMMANDS
from fota_conformance.verdicts import Verdict
from fota_protocol.status import Status
from fota_server.config import Settings, load_settings
from fota_server.errors import UnservableError
from fota_server.firmware import FirmwareStore
from fota_server.journal import Journal, JournalRow, read_journal
from fota_server.registry import RegistryEntry, SqliteRegistry, TextRegistry
from fota_simulator.boot import BootPolicy
from fota_simulator.powercut.promises import PROMISES
from fota_simulator.report import McuReport, SwarmReport

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
PROMISES_HEADING: Final = "## What bootloaders promise"
NO_DEFAULT: Final = "\N{EN DASH}"
MCUID: Final = "0001100023593110965955141"


def text_of(page: str, heading: str = "") -> str:
    """A page, or what stands in it under a heading (up to the next of the same rank)."""
    text = (ROOT / page).read_text(encoding="utf-8")
    if heading:
        rank = heading.partition(" ")[0]
        text = text.split(f"\n{heading}\n", 1)[1]
        text = re.split(rf"\n#{{1,{len(rank)}}} ", text, maxsplit=1)[0]
    return text


def rows(text: str) -> Iterator[list[str]]:
    """The cells of a text's table rows, without the two lines of the heads."""
    lines = text.splitlines()
    for above, line in itertools.pairwise(lines):
        if line.startswith("| ") and not line.startswith("| ---") and above.startswith("| "):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def codes(cell: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`]+)`", cell)


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def test_readme_lists_every_command_with_its_summary() -> None:
    """The table of commands in the README is that of `fota --help`."""
    documented = {codes(name)[0]: summary for name, summary, *_ in rows(text_of("README.md", "## Commands"))}

    assert {f"fota {name}": summary for name, summary in COMMANDS.items()} == documented


def test_readme_begins_with_the_two_commands() -> None:
    """The first two blocks of shell are what a newcomer and CI run; there is no third."""
    found = blocks(text_of("README.md"), "sh")

    assert ["fota demo", "tox"] == [re.split(r"&& \S+/", block.strip())[-1] for block in found]


@pytest.mark.parametrize(
    ("command", "page", "heading"),
    [
        ("demo", "README.md", "## The demo"),
        ("serve", "docs/server.md", "## Options"),
        ("sessions", "docs/server.md", "### fota sessions"),
        ("mcu", "docs/simulator.md", "## One device"),
        ("swarm", "docs/simulator.md", "## Thousands"),
        ("powercut", "docs/powercut.md", "## Options"),
        ("hil program", "docs/programmer.md", "## Options"),
        ("hil relay", "docs/bench.md", "## Options of relay"),
        ("flash show", "docs/flash.md", "### Options of show"),
        ("flash diff", "docs/flash.md", "### Options of diff"),
        ("flash dump", "docs/flash.md", "### Options of dump"),
    ],
)
def test_page_lists_every_option_of_a_command_with_its_default(command: str, page: str, heading: str) -> None:
    """The table of options is the parser's: every name, every default."""
    name, *subcommands = command.split()
    parser = argparse.ArgumentParser()
    importlib.import_module(f"fota_cli.commands.{name}").configure(parser)
    for subcommand in subcommands:
        (parser,) = (action.choices[subcommand] for action in parser._actions if isinstance(action.choices, dict))
    offered: dict[frozenset[str], str] = {}
    for action in parser._actions:
        stated = re.search(r"\(default: (.*)\)", action.help or "")
        if action.dest != "help":
            offered[frozenset(action.option_strings or [action.dest])] = stated[1] if stated else NO_DEFAULT

    table = rows(re.split(r"\n### ", text_of(page, heading))[0])
    documented = {frozenset(codes(names)): default for names, default, _ in table}

    assert offered == documented


def test_configuration_example_loads_and_shows_every_setting(tmp_path: Path) -> None:
    """The TOML file of the server's page is valid and complete."""
    (example,) = blocks(text_of("docs/server.md"), "toml")
    (tmp_path / "fota.toml").write_text(example, encoding="utf-8")

    settings = load_settings(tmp_path / "fota.toml")

    shown = {name.replace("-", "_") for name in re.findall(r"^([a-z-]+) =", example, flags=re.MULTILINE)}
    assert {field.name for field in dataclasses.fields(Settings)} == shown
    defaults = Settings(registry=tmp_path / "devices2update.txt", firmware=tmp_path / "bin", logs=tmp_path / "logs")
    examples = {
        "journal": tmp_path / "logs/journal.sqlite",
        "limit": 10_000,
        "sessions_per_second": 500.0,
        "tls_port": 4443,
        "tls_cert": tmp_path / "tls/fullchain.pem",
        "tls_key": tmp_path / "tls/privkey.pem",
        "tls_client_ca": tmp_path / "tls/devices-ca.pem",
    }
    assert defaults.changed(examples) == settings


def test_registry_example_is_read_without_a_problem(tmp_path: Path) -> None:
    """Every line of the registry shown is a device or a comment."""
    (example,) = blocks(text_of("docs/server.md", "### Text file"), "text")
    path = tmp_path / "devices2update.txt"
    path.write_text(example, encoding="utf-8")

    registry = TextRegistry(path)

    assert not registry.problems
    assert 3 == len(registry)


def test_sqlite_example_adds_a_device(tmp_path: Path) -> None:
    """The statement shown puts a device into the table that the server makes."""
    _, statement = blocks(text_of("docs/server.md", "### SQLite"), "sql")
    registry = SqliteRegistry(tmp_path / "devices.sqlite")
    database = sqlite3.connect(tmp_path / "devices.sqlite")
    with database:
        database.execute(statement)
    database.close()

    found = registry.find(MCUID)
    registry.close()

    assert RegistryEntry(MCUID, "blink_1.s19", "16", part="MK60DN512") == found


def test_sqlite_schema_shown_has_the_columns_that_the_server_makes(tmp_path: Path) -> None:
    """The table shown and the table made have the same columns, types and defaults."""
    schema, _ = blocks(text_of("docs/server.md", "### SQLite"), "sql")
    SqliteRegistry(tmp_path / "made.sqlite").close()
    columns = []
    for path, statement in ((tmp_path / "made.sqlite", ""), (tmp_path / "shown.sqlite", schema)):
        database = sqlite3.connect(path)
        with database:
            database.execute(statement)
            columns.append(database.execute("PRAGMA table_info(devices)").fetchall())
        database.close()

    assert columns[0] == columns[1]


def refused_fixtures() -> list[tuple[str, int]]:
    """The fixtures that the server's page names, each with the status that it promises."""
    table = rows(text_of("docs/server.md", "## The firmware folder"))
    return [(name, int(status)) for _, examples, status in table for name in codes(examples)]


@pytest.mark.parametrize(("name", "status"), refused_fixtures())
def test_broken_firmware_is_refused_with_the_status_documented(name: str, status: int) -> None:
    """What the server's page says of a broken file is what the store says of it."""
    store = FirmwareStore(fota_fixtures.path(name).parent)

    found = store.read(store.key(RegistryEntry(MCUID, name, "16", part="MK60DN512")))

    assert isinstance(found, UnservableError)
    assert status == found.status


def test_server_page_lists_every_status() -> None:
    """The numbers and names of the statuses are the program's."""
    table = rows(text_of("docs/server.md", "## How a session can end"))

    documented = {codes(name)[0]: int(number) for number, name, _ in table}

    assert {name: int(status) for name, status in Status.__members__.items()} == documented


def test_server_page_lists_every_column_of_the_journal(tmp_path: Path) -> None:
    """The columns of the journal are documented in their order."""
    Journal(tmp_path / "journal.sqlite", logging.getLogger("test")).close()
    database = sqlite3.connect(tmp_path / "journal.sqlite")
    columns = [row[1] for row in database.execute("PRAGMA table_info(sessions)")]
    database.close()

    table = rows(re.split(r"\n### ", text_of("docs/server.md", "## The journal"))[0])
    documented = [codes(name)[0] for name, _ in table]

    assert columns == documented


def journal_row(started_at: float, mcuid: str, status: Status, detail: str) -> JournalRow:
    """One session of two seconds."""
    return JournalRow(
        started_at=started_at,
        duration_s=2.0,
        peer="127.0.0.1:50000",
        mcuid=mcuid,
        suffix="",
        filename="blink_1.s19",
        version="16",
        image_crc=None,
        records=0,
        records_acked=0,
        bytes_sent=0,
        status=int(status),
        status_name=status.name,
        detail=detail,
    )


def test_journal_queries_answer_what_they_are_said_to(tmp_path: Path) -> None:
    """The two example queries count outcomes, and name devices that were never updated with their last reason."""
    outcomes, failing = blocks(text_of("docs/server.md", "## The journal"), "sql")
    path = tmp_path / "journal.sqlite"
    journal = Journal(path, logging.getLogger("test"))
    now = 4e9  # in the future, so that it is after yesterday whenever this runs
    journal.add(journal_row(now, "1" * 25, Status.SUCCESSFUL, "updated"))
    journal.add(journal_row(now, "2" * 25, Status.CONNECTION_LOST, "gone"))
    journal.add(journal_row(now, "2" * 25, Status.TIMEOUT_CONNECTION, "silent"))
    journal.add(journal_row(0.0, "1" * 25, Status.CONNECTION_LOST, "long ago"))
    journal.close()
    assert 4 == len(read_journal(path))
    database = sqlite3.connect(path)

    counted = database.execute(outcomes).fetchall()
    never = database.execute(failing).fetchall()
    database.close()

    assert {("SUCCESSFUL", 1, 2.0), ("CONNECTION_LOST", 1, 2.0), ("TIMEOUT_CONNECTION", 1, 2.0)} == set(counted)
    assert [("2" * 25, 2, 3, "silent")] == never


def test_conformance_page_lists_every_verdict() -> None:
    """The verdicts are documented in their order, from best to worst."""
    documented = [codes(name)[0] for name, _ in rows(text_of("docs/conformance.md", "## Verdicts"))]

    assert [verdict.value for verdict in Verdict] == documented


@pytest.mark.parametrize(
    ("heading", "report", "renamed"),
    [
        ("### The outcome", McuReport, {"result": "outcome"}),
        ("### The report", SwarmReport, {}),
    ],
)
def test_simulator_page_lists_every_key_of_a_report(heading: str, report: type, renamed: dict[str, str]) -> None:
    """The keys of the JSON outcome and of the JSON report are documented."""
    keys = {renamed.get(field.name, field.name) for field in dataclasses.fields(report)}

    documented = {key for names, _ in rows(text_of("docs/simulator.md", heading)) for key in codes(names)}

    assert keys | ({"part"} if renamed else set()) == documented


def test_simulator_page_lists_every_policy() -> None:
    """The policies of the bootloader are documented in their order."""
    documented = [codes(name)[0] for name, *_ in rows(text_of("docs/simulator.md", "## The bootloader"))]

    assert [policy.value for policy in BootPolicy] == documented


def test_powercut_page_states_what_policies_promise() -> None:
    """A row for each policy, a column for each promise."""
    head = next(line for line in text_of("docs/powercut.md", PROMISES_HEADING).splitlines() if line.startswith("| "))
    _, *promises = [cell.strip() for cell in head.strip("|").split("|")]
    stated = {
        codes(name)[0]: {promise for promise, cell in zip(promises, cells, strict=True) if cell == "yes"}
        for name, *cells in rows(text_of("docs/powercut.md", PROMISES_HEADING))
    }

    assert {policy.value: {promise.value for promise in PROMISES[policy]} for policy in BootPolicy} == stated


def test_dependencies_page_lists_every_dependency() -> None:
    """What pyproject.toml asks for is on the page with its reason, and nothing else is."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project, groups = pyproject["project"], pyproject["dependency-groups"]
    asked = [*pyproject["build-system"]["requires"], *project["dependencies"]]
    asked += [one for extra in project["optional-dependencies"].values() for one in extra]
    asked += [one for group in groups.values() for one in group if isinstance(one, str)]

    sections = ["## At run time", "## Extras", "## For development"]
    documented = [codes(name)[0] for section in sections for name, *_ in rows(text_of("docs/dependencies.md", section))]

    assert {re.split(r"[^\w-]", one)[0] for one in asked} == set(documented)
    assert len(documented) == len(set(documented))


def resolve(dotted: str) -> Any:
    """The value of `package.module.NAME`, or of `package.module.Class.field` where a class says it by a default."""
    parts = dotted.split(".")
    value: Any = importlib.import_module(".".join(parts[:2]))
    for at, name in enumerate(parts[2:], start=3):
        if inspect.isclass(value):
            value = value()
        value = getattr(value, name, None) or importlib.import_module(".".join(parts[:at]))
    return value


def limits() -> list[tuple[str, str]]:
    """The constants that ARCHITECTURE.md names, each with the value that it states."""
    table = rows(text_of("ARCHITECTURE.md", "## Limits and deadlines"))
    return [(codes(name)[0], stated) for name, stated, _ in table]


@pytest.mark.parametrize(("name", "stated"), limits())
def test_limit_has_the_value_documented(name: str, stated: str) -> None:
    """A limit or deadline in ARCHITECTURE.md is the one in the code."""
    value = resolve(name)

    assert f"{value:,}".removesuffix(".0") == stated


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings make, as GitHub does."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    """A relative link in a page names a file that is there, and a heading in it."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", prose) if "://" not in link]

    broken = []
    for link in links:
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)

    assert not broken
