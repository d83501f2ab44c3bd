"""Which xdist worker judges what: a file of cases goes to one worker, so that its waiting cases wait side by side.

Imported only where xdist is active. xdist's own groups (`--dist loadgroup`) change node ids, which not every pytest
that it runs under lets it do.
"""

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

SANITY_FILES = ("test_server_sanity.py", "test_device_sanity.py")
"""Their cases are the first and the last, and so no unit."""


class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Files as units of work, in the order of the collection."""

    def __init__(self, config: pytest.Config, log: Any = None) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        """The unit that a case belongs to."""
        file = nodeid.partition("::")[0]
        return nodeid if file.endswith(SANITY_FILES) else file
