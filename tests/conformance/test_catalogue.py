"""The catalogue: ids are for ever, every case cites what exists, and what binds is judged by a case."""

import dataclasses
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from fota_cli.main import main
from fota_conformance import catalogue
from fota_conformance.catalogue import Basis, Catalogue, Keyword, load
from fota_conformance.citations import cases_of, citations, uncovered
from fota_conformance.errors import CatalogueError
from fota_conformance.target import DEVICE_CAPABILITIES, SERVER_CAPABILITIES, Handshake, Revision

PUBLISHED = Path(__file__).with_name("published_ids.txt")
ROOT = Path(__file__).parents[2]


def test_published_ids_are_known_for_ever() -> None:
    """An id that was ever published is a requirement's or its alias; a new one is published here, on purpose."""
    published = PUBLISHED.read_text().split()
    ids = [one.id for one in load().requirements]

    assert [name for name in published if load().requirement(name) is None] == []
    assert set(ids) - set(published) == set(), "add new ids to published_ids.txt; a renamed one becomes an alias"


def test_ids_are_unique_and_not_positional() -> None:
    """No id is there twice or counts its place."""
    names = [name for one in load().requirements for name in (one.id, *one.aliases)]

    assert Counter(names).most_common(1)[0][1] == 1
    assert [name for name in names if not re.fullmatch(r"FOTA-[A-Z]+(-[A-Za-z0-9]+)+", name)] == []
    assert [name for name in names if re.search(r"-\d{2,}$", name)] == []


def test_every_requirement_can_be_observed_and_looked_up() -> None:
    """What it needs is a capability, whom it concerns exists, and its section is one of the protocol's page."""
    sections = re.findall(r"^## (\d)\.", (ROOT / "docs/protocol.md").read_text(), re.MULTILINE)

    for one in load().requirements:
        known = SERVER_CAPABILITIES if one.role == "server" else DEVICE_CAPABILITIES
        assert set(one.needs) <= set(known), one.id
        assert one.revision in ("", *(item.value for item in Revision)), one.id
        assert set(one.handshake) <= {item.value for item in Handshake}, one.id
        assert one.see in sections, one.id
        assert one.text.endswith("."), one.id


def test_every_defect_of_the_reference_server_is_a_requirement() -> None:
    """D1 to D20 each break something."""
    assert {f"D{number}" for number in range(1, 21)} == {name for one in load().requirements for name in one.defects}


def test_every_case_cites_requirements_of_its_role() -> None:
    """A case names at least one requirement, all exist, and all are of the role whose file it stands in."""
    for case in citations():
        assert case.requirements, f"{case.case} cites nothing"
        roles = {load().requirement(name).role for name in case.requirements}
        assert roles == {case.case.split("_")[1]}, case.case


def test_every_file_of_cases_is_a_chapter() -> None:
    """A chapter has one file of cases, and a file is of one chapter."""
    files = {case.case.partition("::")[0] for case in citations()}

    assert {f"test_{one.id.replace('-', '_')}.py" for one in load().chapters} == files


def test_every_must_and_should_has_a_case() -> None:
    """Nothing that binds or advises goes unjudged."""
    assert [one.id for one in uncovered(load())] == []


def test_requirement_without_a_case_is_found() -> None:
    """The check above can fail."""
    known = load().requirements[0]
    lonely = [
        Catalogue((catalogue.Chapter("c", "server", "C", "", (_changed(known, id="FOTA-X", keyword=keyword),)),))
        for keyword in Keyword
    ]

    assert [1, 1, 0] == [len(uncovered(one)) for one in lonely]


def test_alias_finds_its_requirement() -> None:
    """A requirement is found by an id that it had before, and so are its cases."""
    known = load().requirements[0]
    renamed = _changed(known, id="FOTA-NEW-name", aliases=(known.id,))
    found = Catalogue((catalogue.Chapter("c", "server", "C", "", (renamed,)),))

    assert renamed is found.requirement(known.id)
    assert cases_of(known) == cases_of(renamed)
    with pytest.raises(CatalogueError, match="no requirement 'FOTA-NONE'"):
        found.requirement("FOTA-NONE")


@pytest.mark.parametrize(
    ("keyword", "basis", "profile", "binds"),
    [
        (Keyword.MUST, Basis.SEED, None, True),
        (Keyword.MUST, Basis.SAFETY, None, True),
        (Keyword.MUST, Basis.PROJECT, None, False),
        (Keyword.MUST, Basis.PROJECT, "k60-fota", True),
        (Keyword.SHOULD, Basis.SEED, "k60-fota", False),
    ],
)
def test_who_is_bound(keyword: Keyword, basis: Basis, profile: str | None, binds: bool) -> None:
    """Our own decisions bind our profile alone; a SHOULD never makes a failure."""
    assert binds is _changed(load().requirements[0], keyword=keyword, basis=basis).binds(profile)


def test_list_names_requirements_and_their_cases(capsys: pytest.CaptureFixture[str]) -> None:
    """`fota conformance list --json` is the catalogue, with the cases of each requirement."""
    assert main(["conformance", "list", "--json"]) == 0

    listed = json.loads(capsys.readouterr().out)
    assert [one.id for one in load().requirements] == [one["id"] for one in listed]
    assert all(one["cases"] for one in listed)


def test_list_of_uncovered_is_empty_and_well(capsys: pytest.CaptureFixture[str]) -> None:
    """`fota conformance list --uncovered` says that nothing is."""
    assert main(["conformance", "list", "--uncovered"]) == 0

    assert f"0 of {len(load().requirements)} requirements; 0 without a case" in capsys.readouterr().out


def test_spec_is_up_to_date() -> None:
    """docs/SPEC.md is rendered from the catalogue; `python docs/generate.py` does it."""
    done = subprocess.run(
        [sys.executable, ROOT / "docs/generate.py", "--check"], capture_output=True, text=True, timeout=60
    )

    assert (done.returncode, done.stderr) == (0, "")


def _changed(requirement: catalogue.Requirement, **fields: object) -> catalogue.Requirement:
    return dataclasses.replace(requirement, **fields)  # type: ignore[arg-type]  # fields by name
