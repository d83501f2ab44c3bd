"""Every exception this package raises on purpose; nothing else may define one.

`LinkLost` is the peer's or the wire's doing and part of normal life: whoever drives a link expects
it.  All others are our own misuse.  A wait that reaches its deadline raises the built-in
`TimeoutError`, as sockets do.
"""


class TransportError(Exception):
    """The root of this package's exceptions."""


class LinkLost(TransportError):
    """The peer reset the link or the line under it failed; nothing more arrives or leaves."""


class LinkClosed(TransportError):
    """A link was used after its own `close`."""


class ProfileError(TransportError):
    """A link profile asks for something no link has, such as a negative latency."""


class TraceSyntaxError(TransportError):
    """A line that should be an entry of a trace is not.

    `line` counts from 1.
    """

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"trace line {line}: {reason}")
        self.line = line


class BufferOverflow(TransportError):
    """A protocol on the simulated loop went on writing after `pause_writing`."""


class SimulationStalled(TransportError):
    """Virtual time cannot go on: nothing can happen any more, or the horizon is reached."""
