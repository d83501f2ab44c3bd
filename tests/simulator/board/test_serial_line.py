"""The serial line in virtual time: rates, faults drawn and planned, and what is no plan."""

from collections import Counter

import pytest

from fota_simulator.board.serial_line import INSTANT, FaultKind, FaultyBytes, LineFault, Way, Wire, parse_faults


@pytest.mark.parametrize("baud", [300, 9600, 115_200])
def test_wire_takes_ten_bits_a_byte(baud: int) -> None:
    """A thousand bytes take ten thousand bits, however often one looks."""
    wire = Wire()
    wire.push(bytes(1000), 5.0, baud)

    popped, at, looks = b"", 5.0, 0
    while (due := wire.due) is not None:
        data, at = wire.pop(due)
        popped += data
        looks += 1

    assert bytes(1000) == popped
    assert at == pytest.approx(5.0 + 10_000 / baud)
    assert looks <= 1001


def test_fast_wire_is_looked_at_a_few_times_only() -> None:
    """No wait for each byte: at 115,200 baud a page of 128 bytes comes in three pieces at most."""
    wire = Wire()
    wire.push(bytes(128), 0.0, 115_200)

    looks = 0
    while (due := wire.due) is not None:
        wire.pop(due)
        looks += 1

    assert 1 <= looks <= 3


def test_bytes_follow_one_another() -> None:
    """What is pushed while others are under way waits for them; after a gap it begins at once."""
    wire = Wire()
    wire.push(b"ab", 0.0, 1000)
    wire.push(b"c", 0.001, 1000)

    first = wire.pop(0.02)
    second = wire.pop(0.03)
    wire.push(b"d", 1.0, 1000)

    assert (b"ab", b"c") == (first[0], second[0])
    assert (b"", b"d") == (wire.pop(1.0099)[0], wire.pop(1.01)[0])


def test_instant_wire_takes_no_time() -> None:
    """Everything is there at once."""
    wire = Wire()
    wire.push(b"abc", 1.0, INSTANT)

    assert (b"abc", 1.0) == wire.pop(1.0)
    assert wire.due is None


def test_cut_wire_loses_what_is_under_way() -> None:
    """And begins anew."""
    wire = Wire()
    wire.push(b"abc", 0.0, 1000)
    wire.pop(0.01)

    wire.cut(0.015)

    wire.push(b"d", 0.015, 1000)
    assert 1 == wire.size
    assert b"d" == wire.pop(0.025)[0]


@pytest.mark.parametrize(
    ("text", "altered"),
    [
        ("in:drop@2", b"acdef"),
        ("in:double@2", b"abbcdef"),
        ("both:drop@1,in:drop@6", b"bcde"),
        ("out:drop@1", b"abcdef"),
        ("in:drop:1", b""),
        ("in:double:1.0", b"aabbccddeeff"),
    ],
)
def test_planned_fault_strikes_the_byte_that_it_names(text: str, altered: bytes) -> None:
    """Numbers count from 1, over all chunks."""
    faulty = FaultyBytes(Way.IN, parse_faults(text), seed=1)

    assert altered == b"".join(faulty(b"abcdef"[at : at + 4]) for at in (0, 4))


def test_flip_changes_one_bit() -> None:
    """Of the byte that it strikes, and of no other."""
    faulty = FaultyBytes(Way.OUT, [LineFault(Way.OUT, FaultKind.FLIP, byte=3)], seed=4)

    changed = [before ^ after for before, after in zip(b"\x00\x55\xaa\xff", faulty(b"\x00\x55\xaa\xff"), strict=True)]

    assert [0, 0, 1, 0] == [bits.bit_count() for bits in changed]
    assert 1 == faulty.faults


def test_probability_is_how_often_bytes_are_struck() -> None:
    """One in a hundred, drawn from the seed: the same seed draws the same, another others."""
    faults = parse_faults("in:drop:0.01")
    sizes = Counter(len(FaultyBytes(Way.IN, faults, seed)(bytes(100_000))) for seed in (1, 1, 2))

    assert sorted(sizes.values()) == [1, 2]
    assert all(98_700 < size < 99_300 for size in sizes)


@pytest.mark.parametrize(
    "text", ["", "in", "in:flip", "in:flip:2", "in:burn:0.1", "in:flip@0", "up:drop@1", "in:drop@x"]
)
def test_what_is_no_plan_is_refused_with_what_was_expected(text: str) -> None:
    """The message names the fault and the form of one."""
    with pytest.raises(ValueError, match="expected WAY:KIND:P or WAY:KIND@N"):
        parse_faults(text)
