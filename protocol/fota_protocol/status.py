"""How a server's session ended: the reference server's numbers, and names of ours where it had none."""

import enum


class Status(enum.IntEnum):
    """Status of a server session; 0 to 10 are revision A's numbers, the rest are ours (`protocol.md` section 7)."""

    SUCCESSFUL = 0
    """Every frame was acknowledged."""
    CLIENT_UNVERIFIED = 1
    """The registry does not know the device."""
    MISSED_FILENAME = 2
    """The registry names no file, or one that does not exist."""
    UNFORMATTED_MCUID = 3
    """The identification is malformed."""
    ALREADY_STARTED_CONNECTION = 4
    NOT_STARTED_CONNECTION = 4
    UNABLE_BUFFERING_CODE = 5
    """The file cannot be read, or its name leaves the firmware folder."""
    UNPROPER_FILE_FORMAT = 6
    """The registry's entry for the device is malformed."""
    TIMEOUT_CONNECTION = 7
    """The device was silent for longer than allowed."""
    INVALID_CODE_CHUNK = 8
    """The file holds a record that cannot be sent: bad, overlapping or out of the part's range."""
    BUFFERING_CODE_INCOMPLETE = 9
    """The file is incomplete."""
    READY_TO_UPDATE = 10

    SUPERSEDED = 20
    """A newer session of the same device took over."""
    UNEXPECTED_ACK = 21
    """The device sent something that is not an ack, or more acks than frames."""
    CONNECTION_LOST = 22
    """The device closed or reset the connection before the end."""
    UNCONFIRMED = 23
    """Closed when one more ack may have been missing: the update may or may not have succeeded."""
    LIMIT_REACHED = 24
    """The server had no room for another session."""
    SERVER_STOPPED = 25
    """The server was stopped."""
    NOTHING_TO_DO = 26
    """The device is served once, and was."""
    SERVER_ERROR = 27
    """The server failed; its log says how."""
