"""Every exception this package raises on purpose; nothing else may define one.

* HilError               base
    * PortError          a serial port cannot be had: its name, what is wrong, what to do
        * PortNameError  what was given can name no port
    * ProgramError       a board was not programmed
        * PlanError      the image cannot go onto this board; nothing on it was changed for it
        * BoardError     the board does not do what it was asked
        * TemplateError  a command for the board's buttons or supply cannot be run, or failed
        * HandNeeded     somebody must press a button, and nobody may be asked
        * ServerError    the server did not deliver the update

What happens on a line once it is open is `fota_transport.errors.LinkLost`, as on any other link: unplugging is part of
normal life. A wait that reaches its deadline raises the built-in `TimeoutError`.
"""

import enum


class HilError(Exception):
    """The root of this package's exceptions."""


class PortError(HilError):
    """A serial port cannot be opened, or cannot do what it was asked.

    `port` is its name as it was given; the message says what is wrong with it and what to do.
    """

    def __init__(self, port: str, reason: str) -> None:
        super().__init__(f"serial port {port!r}: {reason}")
        self.port = port


class PortNameError(PortError):
    """What was given is no name of a port: bad input, whatever is plugged in."""


class ProgramError(HilError):
    """A board was not programmed."""


class PlanError(ProgramError):
    """An image cannot go onto this board: `address` is where, None where no one place is to blame."""

    def __init__(self, message: str, *, address: int | None = None) -> None:
        super().__init__(message)
        self.address = address


class BoardFault(enum.Enum):
    """What a board did, or did not."""

    SILENT = "silent"
    """It does not answer."""
    REFUSED = "refused"
    """It answers that it did not do it."""
    GARBLED = "garbled"
    """What comes from it is no answer."""
    OTHER_BOARD = "other board"
    """It is not the one that we began with."""
    ERASE = "erase"
    """A sector could not be erased."""
    WRITE = "write"
    """Flash could not be written."""
    VERIFY = "verify"
    """Flash does not hold what was written."""
    BANNER = "banner"
    """The application does not say what it should."""


class BoardError(ProgramError):
    """A board does not do what it was asked, in as many attempts as it had."""

    def __init__(self, message: str, *, fault: BoardFault, address: int | None = None) -> None:
        super().__init__(message)
        self.fault = fault
        self.address = address


class TemplateError(ProgramError):
    """A command for a board's buttons or supply cannot be run, failed, or took too long."""


class HandNeeded(ProgramError):
    """Somebody must press a button, and nobody may be asked."""


class ServerError(ProgramError):
    """The server refused the update, or it was lost on its way; the message says what the session said."""
