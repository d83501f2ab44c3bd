"""Exit codes of every command."""

from typing import Final

OK: Final = 0
"""Done, and all well."""
FAILED: Final = 1
"""A device, case or check failed."""
USAGE: Final = 2
"""Usage or bad input."""
HARNESS: Final = 3
"""Harness error, or something could not be tested."""
INVALID: Final = 4
"""The run is invalid: a worker was lost."""
INTERRUPTED: Final = 130
"""Interrupted from the keyboard (128 + SIGINT)."""
