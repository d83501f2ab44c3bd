"""The pytest plugin, which everyone with k60-fota installed loads: quiet without a target, useful with one."""

import subprocess
import sys
from pathlib import Path

import pytest


def run_python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run this Python in a folder, away from the repository's configuration."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


def test_plugin_imports_pytest_and_the_standard_library_alone(tmp_path: Path) -> None:
    """Loading the plugin loads nothing that a base install with pytest may lack."""
    code = (
        "import pytest, sys\n"
        "before = set(sys.modules)\n"
        "import fota_conformance.plugin\n"
        "loaded = sorted(set(sys.modules) - before)\n"
        "print(*(name for name in loaded if name.partition('.')[0] not in sys.stdlib_module_names))"
    )

    result = run_python(tmp_path, "-c", code)

    assert result.stdout.split() == ["fota_conformance", "fota_conformance.plugin"], result.stderr


def test_users_tests_run_without_our_extras(tmp_path: Path) -> None:
    """A user's own tests pass with our plugin loaded and neither xdist nor allure-pytest there."""
    (tmp_path / "test_users.py").write_text("def test_users():\n    assert True\n")

    result = run_python(
        tmp_path, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:allure_pytest", "--strict-markers", "test_users.py"
    )

    assert result.returncode == 0, result.stdout
    assert "1 passed" in result.stdout


def test_cases_without_a_target_are_a_usage_error(tmp_path: Path) -> None:
    """Whoever runs the cases by hand and forgets the target is told of the option."""
    result = run_python(tmp_path, "-m", "pytest", "--pyargs", "fota_conformance.cases")

    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert "name a target file by --fota-target FILE" in result.stderr


def test_wrong_target_is_a_usage_error(tmp_path: Path) -> None:
    """A wrong target file ends pytest before it collects anything."""
    (tmp_path / "target.toml").write_text('kind = "toaster"\n')

    result = run_python(tmp_path, "-m", "pytest", "--pyargs", "fota_conformance.cases", "--fota-target", "target.toml")

    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert "target.toml: kind: expected one of" in result.stderr


def test_cases_run_under_plain_pytest_without_allure(tmp_path: Path) -> None:
    """The cases and their summary need neither our command nor allure-pytest."""
    command = f"'{sys.executable}', '-m', 'fota_conformance.zoo', 'server'"
    options = "'--host', '{host}', '--port', '{port}', '--registry', '{registry}', '--firmware', '{firmware}'"
    (tmp_path / "target.toml").write_text(
        f'kind = "server-by-command"\nrevision = "A"\ncommand = [{command}, {options}]\n'
    )

    result = run_python(
        tmp_path,
        *("-m", "pytest", "--pyargs", "fota_conformance.cases", "-p", "no:allure_pytest", "-k", "first_update"),
        *("--fota-target", "target.toml"),
    )

    assert result.returncode == 0, result.stdout
    assert "server: Sanity                         1 PASS" in result.stdout
