"""Every exception of this package.

* ServerError
    * ConfigError        a setting is not as it must be
    * RegistryError      the registry cannot be read at all, or written
        * KnownDeviceError   …because a device that is to be new is there already
    * UnservableError    one device cannot be served, and why (with the status of its session)
        * TemporaryError     …at this moment; it may try again
    * JournalError       the journal cannot be opened
    * ListenError        the address cannot be listened on
"""

from fota_protocol.status import Status


class ServerError(Exception):
    """Base of all errors raised by `fota_server`; the message is for the operator."""


class ConfigError(ServerError):
    """A setting is not as it must be; the message says which, where it stands and what was expected."""


class RegistryError(ServerError):
    """The registry cannot be read at all, or cannot be written."""


class KnownDeviceError(RegistryError):
    """A device that was to be added, and to replace none, is there already."""


class JournalError(ServerError):
    """The journal cannot be opened."""


class ListenError(ServerError):
    """The address cannot be listened on."""


class UnservableError(ServerError):
    """One device cannot be served; `status` is how its session ends."""

    def __init__(self, message: str, *, status: Status) -> None:
        super().__init__(message)
        self.status = status


class TemporaryError(UnservableError):
    """One device cannot be served at this moment, through no fault of its entry or file; it may try again."""
