"""Every exception of this package.

* SimulatorError
    * FlashError        a command that the flash controller refuses
    * FlashFileError    a file that cannot be the flash of a part
"""

from pathlib import Path


class SimulatorError(Exception):
    """Base of all errors raised by `fota_simulator`."""


class FlashError(SimulatorError):
    """A flash command was refused (the controller's ACCERR); `address` is the one it was given."""

    def __init__(self, message: str, *, address: int) -> None:
        super().__init__(message)
        self.address = address


class FlashFileError(SimulatorError):
    """The file `path` is not, and cannot be made, a flash of `expected_size` bytes."""

    def __init__(self, path: Path, expected_size: int, found: str) -> None:
        super().__init__(f"{path}: {found}, expected a file of {expected_size} bytes, or a place to make it")
        self.path = path
        self.expected_size = expected_size
