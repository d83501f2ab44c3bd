"""The pytest plugin: options and marks; everything else is loaded only when a target is given.

This module is imported by every pytest of everyone who has k60-fota installed, with or without our extras. It may
import pytest and the standard library, nothing else.
"""

from pathlib import Path
from typing import Final

import pytest

MARKS: Final = (
    "fota_requirement(*ids): the requirements that a case judges",
    "fota_devices(*(image, version, place)): the devices that a server must know",
    "fota_fresh: the case has a server of its own",
    "fota_registry(*lines): the case has a server of its own, with this registry",
    "fota_waits: the case mostly waits for a deadline, and runs beside the others",
    "fota_cuts(image): the image whose records the argument `cut` counts",
)
"""The marks of the cases."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--fota-target` makes `pytest --pyargs fota_conformance.cases` judge a target."""
    group = parser.getgroup("fota-conformance", "judging a FOTA server or device")
    group.addoption("--fota-target", type=Path, metavar="FILE", help="the TOML file of the target to judge")
    group.addoption(
        "--fota-results", type=Path, metavar="DIR", help="folder for results.json and the files of each case"
    )
    group.addoption(
        "--fota-requirement",
        action="append",
        metavar="ID",
        help="only the cases of this requirement (repeatable)",
    )
    group.addoption("--fota-exhaustive", action="store_true", help="interrupt updates at every record, not at a few")
    group.addoption("--fota-verbose", action="store_true", help="list every case, not only what did not pass")


def pytest_configure(config: pytest.Config) -> None:
    """Know the marks of the cases; with a target, start to collect verdicts."""
    for mark in MARKS:
        config.addinivalue_line("markers", mark)
    if config.getoption("fota_target") is not None:
        from fota_conformance.collector import Collector

        config.pluginmanager.register(Collector(config), "fota_conformance_collector")
