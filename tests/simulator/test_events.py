"""The trace of a device: what is kept, and how it reads as text and as JSON."""

import json

from hypothesis import given
from hypothesis import strategies as st

from fota_simulator.events import EventTrace
from fota_transport.clock import VirtualClock


def trace_of(*kinds: str, limit: int = 10) -> EventTrace:
    """A trace with one event a second."""
    clock = VirtualClock()
    trace = EventTrace(clock, limit)
    for kind in kinds:
        clock.advance(1.0)
        trace.record(kind)
    return trace


def test_events_have_the_time_of_the_clock_and_their_facts() -> None:
    """In the order in which they were recorded."""
    clock = VirtualClock()
    trace = EventTrace(clock)
    trace.record("reset", debug="open")
    clock.advance(0.000065)
    trace.record("flash", command="program_longword", address=0x4000)

    assert [
        (0.0, "reset", {"debug": "open"}),
        (0.000065, "flash", {"command": "program_longword", "address": 0x4000}),
    ] == [(event.time_s, event.kind, event.facts) for event in trace.events]


def test_full_trace_drops_the_oldest_and_counts_them() -> None:
    """And says so wherever it is shown."""
    trace = trace_of("a", "b", "c", "d", "e", limit=3)

    assert (2, ["c", "d", "e"]) == (trace.dropped, [event.kind for event in trace.events])
    assert trace.to_text().startswith("# 2 earlier events were dropped\n    3.000000  c\n")
    assert 2 == json.loads(trace.to_json())["dropped"]


def test_trace_that_is_just_full_has_dropped_nothing() -> None:
    """Nor says that it has."""
    trace = trace_of("a", "b", "c", limit=3)

    assert (0, 3, 3) == (trace.dropped, len(trace.events), len(trace.to_text().splitlines()))


def test_text_is_a_line_for_each_event() -> None:
    """Microseconds, kind, facts; addresses in hexadecimal, text with spaces in quotes."""
    clock = VirtualClock()
    trace = EventTrace(clock)
    trace.record("flash", command="erase_sector", address=0x4000)
    clock.advance(12.5)
    trace.record("power lost", where="during flash command 2", records=1, address=None)
    trace.record("frame", bytes="@4#", end=0x80000, well=True)

    assert (
        "    0.000000  flash          command=erase_sector address=0x00004000\n"
        '   12.500000  power lost     where="during flash command 2" records=1 address=None\n'
        "   12.500000  frame          bytes=@4# end=0x00080000 well=True\n"
    ) == trace.to_text()


def test_empty_trace_is_no_lines_and_an_object_without_events() -> None:
    """Nothing happened."""
    trace = trace_of()

    assert "" == trace.to_text()
    assert {"version": 1, "dropped": 0, "events": []} == json.loads(trace.to_json())


facts = st.dictionaries(
    st.sampled_from(["address", "end", "status", "where"]),
    st.one_of(st.text(), st.integers(0, 2**32), st.booleans(), st.none()),
)


@given(st.lists(st.tuples(st.sampled_from(["flash", "reset", "power lost"]), facts), max_size=5))
def test_json_has_every_fact_and_text_one_line_for_each_event(
    happened: list[tuple[str, dict[str, str | int | bool | None]]],
) -> None:
    """Whatever characters came, line ends too."""
    clock = VirtualClock()
    trace = EventTrace(clock)
    for kind, found in happened:
        clock.advance(0.25)
        trace.record(kind, **found)

    assert [
        {"time_s": 0.25 * (i + 1), "kind": kind, **found} for i, (kind, found) in enumerate(happened)
    ] == json.loads(trace.to_json())["events"]
    assert len(happened) == len(trace.to_text().splitlines())
