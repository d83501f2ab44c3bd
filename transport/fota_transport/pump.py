"""Drive one session over one blocking link, in the caller's thread, until the session is over."""

from collections.abc import Callable
from typing import Final

from .clock import Clock
from .errors import LinkLost
from .links import Link
from .session import Session
from .trace import Direction, Trace

LAST_WRITE_TIMEOUT: Final = 5.0
"""Seconds for the last bytes of a session, whose own deadline is gone by then."""


def pump(
    session: Session,
    link: Link,
    clock: Clock,
    on_event: Callable[[object], bytes],
    first: bytes = b"",
    trace: Trace | None = None,
) -> None:
    """Carry bytes between `session` and `link` until the session's deadline is None.

    `first` is sent at the start; so is whatever `on_event` returns for an event.  The end of the
    stream, a broken link, and a peer that does not take our bytes before the deadline all end the
    session as `peer_closed`.  The link stays open: closing it is its owner's business.
    """
    broken = False

    def send(data: bytes) -> None:
        nonlocal broken
        if not data or broken:
            return
        now = clock.monotonic()
        deadline = session.deadline
        timeout_s = LAST_WRITE_TIMEOUT if deadline is None else max(0.0, deadline - now)
        try:
            link.write(data, timeout_s)
        except (LinkLost, TimeoutError):
            broken = True
        if trace is not None and not broken:
            trace.record(now, Direction.SENT, data)

    def hand_on_events() -> None:
        while session.events:
            events = session.events
            session.events = ()
            for event in events:
                send(on_event(event))

    def settle(out: bytes) -> None:
        send(out)
        hand_on_events()
        if broken and session.deadline is not None:
            session.peer_closed(clock.monotonic())
            hand_on_events()

    settle(first)
    while not broken and (deadline := session.deadline) is not None:
        try:
            data = link.read(max(0.0, deadline - clock.monotonic()))
        except TimeoutError:
            if (now := clock.monotonic()) >= deadline:
                settle(session.timeout(now))
            continue
        except LinkLost:
            data = b""
        now = clock.monotonic()
        if not data:
            broken = True
            settle(b"")
        else:
            if trace is not None:
                trace.record(now, Direction.RECEIVED, data)
            settle(session.receive(data, now))
