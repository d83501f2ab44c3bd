"""Every exception of this package.

* FotaProtocolError
    * LocalProtocolError    our side asked a session for something that its state forbids
    * RemoteProtocolError   the peer sent something that the protocol forbids
    * SRecordError          one line is not a valid S-record
    * ImageError            a firmware file cannot be served or sealed as it is
    * UnknownPartError      no part of that name
    * RecordRejected        a device cannot take a record or an image (raised by its `Target`)

All but the first are the fault of somebody else's bytes and carry what is needed to say so: a reason, a line, an
address.
"""

import enum


class FotaProtocolError(Exception):
    """Base of all errors raised by `fota_protocol`."""


class LocalProtocolError(FotaProtocolError):
    """A session was asked for something that its state forbids: a bug of the caller."""


class RemoteProtocolError(FotaProtocolError):
    """The peer sent something that the protocol forbids in this state."""


class SRecordError(FotaProtocolError):
    """A line is not a valid S-record; the message says what came and what was expected."""


class UnknownPartError(FotaProtocolError):
    """No part is known by that name; the message lists those that are."""


class ImageFault(enum.Enum):
    """Why a firmware file cannot be served or sealed."""

    UNREADABLE = "unreadable"
    """Not in the format that it claims, or too large."""
    BAD_RECORD = "bad record"
    """A line that is no S-record, or whose count or checksum is wrong."""
    INCOMPLETE = "incomplete"
    """No termination record, a record count that does not match, or no data at all."""
    OVERLAP = "overlap"
    """Two records give different bytes for one address."""
    OUT_OF_RANGE = "out of range"
    """Bytes outside the part's user flash."""
    NOT_SEALABLE = "not sealable"
    """The bootloader configuration area is in use."""


class ImageError(FotaProtocolError):
    """A firmware file cannot be served or sealed as it is.

    `fault` says why in one word, `line` where in the file (counted from 1; None where no line is to blame).
    """

    def __init__(self, message: str, *, fault: ImageFault, line: int | None = None) -> None:
        super().__init__(message if line is None else f"line {line}: {message}")
        self.fault = fault
        self.line = line


class Rejection(enum.Enum):
    """Why a device does not take a record or an image."""

    BAD_RECORD = "bad record"
    """Syntax, count or checksum."""
    OUT_OF_RANGE = "out of range"
    """Bytes outside the part's flash."""
    BOOTLOADER = "bootloader region"
    """Bytes inside the bootloader's own flash."""
    REWRITTEN = "rewritten"
    """A program unit that this session has programmed already."""
    FLASH = "flash error"
    """The flash controller reported an error."""
    SEAL = "seal"
    """No seal, or a seal whose CRC is not that of the flash."""
    VECTORS = "vectors"
    """An initial stack pointer or reset vector that cannot be right."""
    SECURITY = "security"
    """A flash configuration field that would lock every debugger out for ever."""


class RecordRejected(FotaProtocolError):
    """A device cannot take a record or an image, so it neither acks nor goes on."""

    def __init__(self, message: str, *, reason: Rejection, address: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.address = address
