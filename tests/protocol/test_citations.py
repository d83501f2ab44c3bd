"""What the code cites of the page on the protocol."""

import re
from pathlib import Path
from typing import Final

import pytest

import fota_protocol
from fota_protocol.status import Status

PAGE: Final = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
MODULES: Final = sorted(Path(fota_protocol.__path__[0]).glob("*.py"))
CITATION: Final = re.compile(r"`protocol\.md`([^:;.,)]*)")


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_a_citation_names_a_section_that_exists(module: Path) -> None:
    """Each is `protocol.md` section N, and the page has an N."""
    sections = re.findall(r"^## (\d+)\. ", PAGE, re.MULTILINE)
    cited = CITATION.findall(module.read_text(encoding="utf-8"))

    assert [] == [citation for citation in cited if citation.removeprefix(" section ") not in sections]


def test_the_sections_are_numbered_in_order() -> None:
    """Or a citation would lead to another place than it did."""
    numbers = [int(number) for number in re.findall(r"^## (\d+)\. ", PAGE, re.MULTILINE)]

    assert list(range(1, 10)) == numbers


def test_the_page_has_every_status() -> None:
    """Number and name as in the code."""
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")]

    for name, status in Status.__members__.items():
        assert any(re.match(rf"\| {status:d} .*\b{name}\b", row) for row in rows), name
