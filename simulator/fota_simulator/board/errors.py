"""Every exception of virtual boards.

* SimulatorError
    * BoardError            a board cannot be had where it was asked for: its message says what was expected
"""

from ..errors import SimulatorError


class BoardError(SimulatorError):
    """There can be no board like this, or not there."""
