"""The trace format: what is kept, how it is written, and that it can be read back."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fota_transport.errors import TraceSyntaxError
from fota_transport.trace import ENTRY_COST, Direction, Trace, TraceEntry, parse, render

entries = st.builds(
    TraceEntry,
    st.integers(0, 10**12).map(lambda microseconds: microseconds / 1_000_000),
    st.sampled_from(Direction),
    st.binary(max_size=100),
)


@given(st.lists(entries))
def test_text_reads_back_as_the_same_entries(originals: list[TraceEntry]) -> None:
    """Rendering and parsing lose nothing, whatever the bytes."""
    assert originals == parse(render(originals))


@given(st.binary(max_size=300))
def test_text_is_one_line_of_printable_ascii(data: bytes) -> None:
    """No byte can break a line or disturb a terminal."""
    line = str(TraceEntry(0.0, Direction.SENT, data))

    assert line.isascii()
    assert line.isprintable()


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    """The parser returns entries or raises its one documented error, nothing else."""
    try:
        read = parse(text)
    except TraceSyntaxError:
        return
    assert read == parse(render(read))


@given(st.lists(entries))
def test_json_lines_hold_every_byte(originals: list[TraceEntry]) -> None:
    """The characters of `data` are the bytes, by ISO 8859-1."""
    documents = [json.loads(entry.to_json()) for entry in originals]

    assert [(e.time_s, e.direction.name.lower(), e.data) for e in originals] == [
        (d["time_s"], d["direction"], d["data"].encode("latin-1")) for d in documents
    ]


def test_a_trace_looks_like_this() -> None:
    """Time, direction and count stand in columns before the data."""
    trace = Trace(start_s=100.0)
    trace.record(100.001234, Direction.SENT, b"@4#")
    trace.record(100.5, Direction.RECEIVED, b"@\r\n\\\xff")

    assert trace.to_text() == "   0.001234  -> 3   @4#\n   0.500000  <- 5   @\\r\\n\\\\\\xff\n"
    assert trace.to_json_lines() == (
        '{"time_s": 0.001234, "direction": "sent", "data": "@4#"}\n'
        '{"time_s": 0.5, "direction": "received", "data": "@\\r\\n\\\\\\u00ff"}\n'
    )


def test_a_full_trace_keeps_the_newest_and_counts_the_rest() -> None:
    """Beyond its limit a trace drops the oldest entries and says how many."""
    trace = Trace(start_s=0.0, limit_bytes=2 * (ENTRY_COST + 10))
    for number in range(5):
        trace.record(number, Direction.SENT, b"%010d" % number)

    assert [entry.data for entry in trace] == [b"0000000003", b"0000000004"]
    assert trace.to_text().startswith("# 3 chunks (30 bytes) dropped\n")
    assert list(trace) == parse(trace.to_text())


def test_many_empty_chunks_cannot_outgrow_the_limit() -> None:
    """Each entry costs something even if its data is one byte."""
    trace = Trace(start_s=0.0, limit_bytes=10 * ENTRY_COST)
    for _ in range(1_000):
        trace.record(0.0, Direction.RECEIVED, b"@")

    assert len(trace) == 9


def test_a_chunk_larger_than_the_limit_is_only_counted() -> None:
    """What cannot fit at all leaves the trace empty."""
    trace = Trace(start_s=0.0, limit_bytes=1_000)
    trace.record(0.0, Direction.SENT, bytes(2_000))

    assert trace.to_text() == "# 1 chunks (2000 bytes) dropped\n"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("once upon a time", "expected time, -> or <-, count and data"),
        ("   0.000001  >> 1   @", "expected time, -> or <-, count and data"),
        ("   0.000001  -> 2   @", "1 bytes of data, expected 2"),
        (r"   0.000001  -> 1   \q", "an unknown escape"),
        ("   0.000001  -> 1   é", "not printable ASCII"),
    ],
)
def test_a_line_that_is_no_entry_is_refused_by_number(line: str, reason: str) -> None:
    """The error names the line and what was expected there."""
    with pytest.raises(TraceSyntaxError, match=f"trace line 2: .*{reason}"):
        parse(f"# a comment\n{line}\n")
