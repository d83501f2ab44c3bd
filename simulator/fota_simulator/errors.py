"""Every exception of this package.

* SimulatorError
    * FlashError    a command that the flash controller refuses
"""


class SimulatorError(Exception):
    """Base of all errors raised by `fota_simulator`."""


class FlashError(SimulatorError):
    """A flash command was refused (the controller's ACCERR); `address` is the one it was given."""

    def __init__(self, message: str, *, address: int) -> None:
        super().__init__(message)
        self.address = address
