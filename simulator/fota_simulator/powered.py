"""A device's session on a supply that can fail: the same bytes and times, until the power is gone."""

from fota_protocol.device import DeviceEvent, DeviceSession

from .errors import PowerLost
from .events import EventTrace
from .supply import Supply


class PoweredSession:
    """Plays `session` while `supply` lasts. Every method that carries bytes raises `PowerLost` when it fails.

    A byte of the wire counts when it passes: what came before the power failed was read, and what it made the device do
    was done; of the device's own last bytes, `PowerLost.sent` still left. `trace` has what passed.
    """

    __slots__ = ("_session", "_supply", "_trace")

    def __init__(self, session: DeviceSession, supply: Supply, trace: EventTrace | None = None) -> None:
        self._session = session
        self._supply = supply
        self._trace = trace

    @property
    def events(self) -> tuple[DeviceEvent, ...]:
        """What happened since the owner last set this to `()`."""
        return self._session.events

    @events.setter
    def events(self, events: tuple[DeviceEvent, ...]) -> None:
        self._session.events = events

    @property
    def deadline(self) -> float | None:
        """When to call `timeout`; None before the start and once the session is over."""
        return self._session.deadline

    def start(self, now: float) -> bytes:
        """The connection is there; returns the identification."""
        return self._sent(self._session.start(now))

    def receive(self, data: bytes, now: float) -> bytes:
        """Take what the server sent; returns acks to send."""
        passed = self._supply.carry(len(data))
        self._note("received", data[:passed])
        out = self._sent(self._session.receive(data[:passed], now)) if passed else b""
        if passed < len(data):
            raise PowerLost(f"at byte {self._supply.wire_bytes + 1} on the wire", sent=out)
        return out

    def peer_closed(self, now: float) -> None:
        """The server closed or reset the connection."""
        self._session.peer_closed(now)

    def timeout(self, now: float) -> bytes:
        """To be called when `now` has reached `deadline`."""
        return self._sent(self._session.timeout(now))

    def _sent(self, out: bytes) -> bytes:
        passed = self._supply.carry(len(out))
        self._note("sent", out[:passed])
        if passed < len(out):
            raise PowerLost(f"at byte {self._supply.wire_bytes + 1} on the wire", sent=out[:passed])
        return out

    def _note(self, kind: str, data: bytes) -> None:
        if self._trace is not None and data:
            self._trace.record(kind, bytes=data.decode("ascii", "backslashreplace"))
