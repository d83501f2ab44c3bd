"""What the tests of the kit have in common."""

import pytest


@pytest.fixture(autouse=True)
def unmeasured_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of the kit start hundreds of processes, which coverage would slow down to a multiple.

    Those that are made once for a module (the reports of real runs) are measured.
    """
    for name in ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG"):
        monkeypatch.delenv(name, raising=False)
