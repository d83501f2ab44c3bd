"""What a user has who installs the package with no extra, next to pytest alone.

This folder imports pytest and the standard library only: `tox -e minimal` runs it where nothing else is installed.
"""

import subprocess
import sys
from importlib.metadata import distribution
from typing import Final

import pytest

PLUGINS: Final = {
    entry.name: entry.module for entry in distribution("k60-fota").entry_points if entry.group == "pytest11"
}
"""Our pytest plugins as pytest finds them: name and module."""

LOAD: Final = """
import importlib, sys
import pytest

before = set(sys.modules)
importlib.import_module(sys.argv[1])
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""
"""Prints the top-level packages that loading one module brings in beside pytest."""


def test_pytest_runs_with_our_plugins_loaded(pytestconfig: pytest.Config) -> None:
    """Both plugins are live in a plain pytest session, whatever else is installed."""
    loaded = {name for name in PLUGINS if pytestconfig.pluginmanager.has_plugin(name)}

    assert {"fota", "fota_conformance"} == loaded


@pytest.mark.parametrize("module", PLUGINS.values(), ids=PLUGINS)
def test_a_plugin_imports_only_pytest_and_the_standard_library(module: str) -> None:
    """A pytest session that uses none of our fixtures pays for nothing and needs no extra."""
    child = subprocess.run([sys.executable, "-c", LOAD, module], check=True, capture_output=True, text=True, timeout=60)

    strangers = set(child.stdout.split()) - sys.stdlib_module_names - {"pytest", "_pytest"}
    assert {module.partition(".")[0]} == strangers
