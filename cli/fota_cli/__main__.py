"""The process `fota`, also as `python -m fota_cli`."""

import sys

from . import interrupts


def main() -> int:
    """Run the command that the process was started with; returns the exit code."""
    interrupts.begin()
    from .main import main as run  # takes a while, in which an interrupt may come

    return run()


if __name__ == "__main__":
    sys.exit(main())
