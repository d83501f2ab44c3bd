"""Every exception of this package.

* SimulatorError
    * FlashError            a command that the flash controller refuses, or that failed
        * Overprogrammed    strict mode: a unit was programmed that had not been erased
    * FlashFileError        a file that cannot be the flash of a part
    * DeviceFileError       a file that does not hold a device
    * BehaviourError        a file of faults, or a number, that cannot be meant
    * DebugRefused          a debugger that security, or protection, keeps out
    * ScenarioError         an update that cannot be cut: it fails by itself, or has no such moment
    * JudgeError            the judge of power cuts contradicts itself
    * WorkerLost            a process of a run died
    * PowerLost             the supply failed; nothing in a device catches it
"""

from pathlib import Path


class SimulatorError(Exception):
    """Base of all errors raised by `fota_simulator`."""


class FlashError(SimulatorError):
    """A flash command was refused or failed; `address` is the one it was given."""

    def __init__(self, message: str, *, address: int) -> None:
        super().__init__(message)
        self.address = address


class Overprogrammed(FlashError):
    """In strict mode, a unit was programmed that was not blank: the manual forbids it, the cells suffer."""


class FlashFileError(SimulatorError):
    """The file `path` is not, and cannot be made, a flash of `expected_size` bytes."""

    def __init__(self, path: Path, expected_size: int, found: str) -> None:
        super().__init__(f"{path}: {found}, expected a file of {expected_size} bytes, or a place to make it")
        self.path = path
        self.expected_size = expected_size


class DeviceFileError(SimulatorError):
    """The file `path` does not hold a device that can be read, or cannot be written; `reason` says why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class BehaviourError(SimulatorError):
    """What a fleet is to do cannot be meant; the message says what was expected."""


class DebugRefused(SimulatorError):
    """A debugger asked for what the part does not let it do."""


class ScenarioError(SimulatorError):
    """An update that cannot be cut: its device does not take it, or has no such moment."""


class JudgeError(SimulatorError):
    """Power cuts were judged wrongly: what the run says is not to be trusted."""


class WorkerLost(SimulatorError):
    """A process that did a part of a run died, so the run says nothing."""


class PowerLost(SimulatorError):
    """The supply failed. `sent` are the bytes of the device's last write that still left it."""

    def __init__(self, message: str, *, sent: bytes = b"") -> None:
        super().__init__(message)
        self.sent = sent
