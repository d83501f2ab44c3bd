"""The pytest plugin: options and marks; everything else is loaded only when a target is given.

This module is imported by every pytest of everyone who has k60-fota installed, with or without our extras. It may
import pytest and the standard library, nothing else.
"""

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--fota-target` makes `pytest --pyargs fota_conformance.cases` judge a target."""
    group = parser.getgroup("fota-conformance", "judging a FOTA server or device")
    group.addoption("--fota-target", type=Path, metavar="FILE", help="the TOML file of the target to judge")
    group.addoption(
        "--fota-results", type=Path, metavar="DIR", help="folder for results.json and the files of each case"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Know the marks of the cases; with a target, start to collect verdicts."""
    config.addinivalue_line("markers", "fota_chapter(role, title, *tags): what the cases of a file are about")
    config.addinivalue_line("markers", "fota_devices(*(image, version)): the devices that a server must know")
    if config.getoption("fota_target") is not None:
        from fota_conformance.collector import Collector

        config.pluginmanager.register(Collector(config), "fota_conformance_collector")
