"""Identification: who the device says it is, however TCP cuts it, and how it is answered."""

import secrets
from dataclasses import replace
from typing import Final

import pytest

from fota_conformance.exchange import MCUID_DIGITS, PlayedDevice
from fota_conformance.pace import EARLY
from fota_conformance.peer import SEGMENT_PAUSE
from fota_conformance.reporting import step
from fota_conformance.server_bench import ServerBench
from fota_conformance.wire import (
    ACK,
    ALLOWED,
    DENIED,
    IDENTIFICATION_LIMIT,
    Kind,
    identification,
    read_answer,
    show,
)

BYTE_PAUSE: Final = 0.01
"""Seconds between two bytes of an identification that comes byte by byte."""
SLOW: Final = 1.0
"""Seconds that a slow identification takes at most."""
STRIDE: Final = 4
"""Bytes between two cuts of an identification: as many sessions cover every cut."""
FLOOD: Final = 64 * 1024
"""Bytes of an identification that does not end."""
MOST_SUFFIX: Final = IDENTIFICATION_LIMIT - MCUID_DIGITS - 2
"""Digits behind an MCUID in the longest identification."""
HALF: Final = 12
"""Digits that a near miss has in common with a known MCUID."""

pytestmark = pytest.mark.fota_devices("made-1")

# --- the answer -------------------------------------------------------------------------------------------------------


@pytest.mark.fota_requirement("FOTA-ID-known-allowed")
@pytest.mark.fota_devices("made-1", "made-2")
@pytest.mark.parametrize("which", [0, 1], ids=["one device", "another device"])
def test_known_device_is_allowed(server: ServerBench, which: int) -> None:
    """A device that the registry knows is answered by `@4#`."""
    with server.session(server.devices[which], hurried=True) as session:
        session.identify()
        session.expect_allowed()
        session.leave()


@pytest.mark.fota_requirement("FOTA-ID-unknown-denied")
@pytest.mark.parametrize("unlike", ["all", "the last digits", "the first digits", "the order"])
def test_unknown_device_is_denied(server: ServerBench, unlike: str) -> None:
    """A well-formed identification that the registry does not know is answered by `@0#`, however like a known one."""
    known, other = server.devices[0].mcuid, f"{secrets.randbelow(10**MCUID_DIGITS):0{MCUID_DIGITS}d}"
    mcuid = {
        "all": server.stranger(),
        "the last digits": known[:HALF] + other[HALF:],
        "the first digits": other[:HALF] + known[HALF:],
        "the order": known[::-1],
    }[unlike]
    with server.session() as session:
        expect_denial(session, identification(mcuid), "after an identification that no registry knows")


@pytest.mark.fota_requirement("FOTA-ID-denied-closed")
def test_denied_device_is_closed(server: ServerBench) -> None:
    """Behind `@0#` nothing more comes but a close."""
    with server.session() as session:
        expect_denial(session, identification(server.stranger()), "after an identification that no registry knows")
        with step("the server closes"):
            session.peer.expect_close(server.target.timeouts.close, f"after {show(DENIED)}")


@pytest.mark.fota_requirement("FOTA-ID-malformed-denied")
@pytest.mark.parametrize(
    "template",
    ["#", "@#", "{0}#", "@@{0}#", " @{0}#", "@ {0}#", "@{0} #", "@{0}X#", "@-{0}#", "@{0}@#", "@0x{0}#", "@{0:.24}#"],
    ids=[
        "hash alone",
        "no digit",
        "no at sign",
        "two at signs",
        "space before the at sign",
        "space behind the at sign",
        "space before the hash",
        "letter before the hash",
        "sign",
        "at sign before the hash",
        "0x",
        "24 digits",
    ],
)
def test_malformed_identification_is_denied(server: ServerBench, template: str) -> None:
    """What ends in `#` and is no identification of a known device is answered by `@0#` and a close."""
    raw = template.format(server.devices[0].mcuid).encode("ascii")
    with server.session() as session:
        situation = f"after {show(raw)}, in one segment"
        expect_denial(session, raw, situation)
        with step("the server closes"):
            session.peer.expect_close(server.target.timeouts.close, f"{situation}, and {show(DENIED)}")


@pytest.mark.fota_requirement("FOTA-ID-malformed-at-once")
@pytest.mark.parametrize(
    "template",
    [b"X", b"0", b"\0", b"@ ", b"@G", b"@\xff", b"@%b@", b"@%bZ", b"@%b\r\n"],
    ids=[
        "letter first",
        "digit first",
        "NUL first",
        "space behind @",
        "letter behind @",
        "high byte behind @",
        "@ behind the digits",
        "letter behind the digits",
        "line end behind the digits",
    ],
)
def test_wrong_byte_is_denied_at_once(server: ServerBench, template: bytes) -> None:
    """What can no longer become an identification is refused by `@0#` at once, without its `#`."""
    raw = template.replace(b"%b", server.devices[0].mcuid.encode("ascii"))
    with server.session() as session:
        situation = f"after {show(raw)}, which can no longer become an identification"
        expect_denial(session, raw, situation, at_once_s(server))
        with step("the server closes"):
            session.peer.expect_close(server.target.timeouts.close, f"{situation}, and {show(DENIED)}")


@pytest.mark.fota_requirement("FOTA-ID-suffix-ignored")
@pytest.mark.parametrize("digits", [1, 8, MOST_SUFFIX], ids=["1", "8", "1,024 bytes in all"])
def test_digits_behind_the_mcuid_do_not_matter(server: ServerBench, digits: int) -> None:
    """A device that sends digits behind its MCUID gets its own image all the same."""
    suffix = f"{10**digits // 7:0{digits}d}"
    with server.session(hurried=True) as session:
        raw = identification(session.device.mcuid + suffix)
        session.peer.send(raw, f"naming itself, with {digits} more digits")
        session.expect_allowed(f"after the identification of a known device with {digits} more digits")
        session.ack_permission()
        session.take(2)
        session.take_record()
        session.leave()


@pytest.mark.fota_requirement("FOTA-ID-hex")
@pytest.mark.fota_devices("made-1", "made-2", "made-3", "made-4")
@pytest.mark.fota_registry(
    "A,{0.file},{0.version}",
    "0001C0FFEE00DEADBEEF5141,{1.file},{1.version}",
    "7,{2.file},{2.version}",
    "0123456789ABCDEF0123456789ABCDEF0123456789ABCDEF0123456789ABCDEF,{3.file},{3.version}",
)
@pytest.mark.parametrize(
    ("which", "mcuid"),
    [(0, "A"), (1, "0001C0FFEE00DEADBEEF5141"), (2, "7"), (3, "0123456789ABCDEF" * 4)],
    ids=["one letter", "24 digits", "one digit", "64 digits"],
)
def test_hexadecimal_mcuid_is_known(server: ServerBench, which: int, mcuid: str) -> None:
    """An MCUID of 1 to 64 hexadecimal digits is known, and gets its own image."""
    with server.session(replace(server.devices[which], mcuid=mcuid), hurried=True) as session:
        session.begin()
        session.take(2)
        session.take_record()
        session.leave()


# --- a stream of bytes ------------------------------------------------------------------------------------------------


@pytest.mark.fota_requirement("FOTA-ID-split")
@pytest.mark.parametrize("where", ["behind @", "in the middle", "before #"])
def test_identification_in_two_segments_counts(server: ServerBench, where: str) -> None:
    """An identification that TCP has cut in two is whole with its second segment."""
    whole = identification(server.devices[0].mcuid)
    cut = {"behind @": 1, "in the middle": len(whole) // 2, "before #": len(whole) - 1}[where]
    with server.session(hurried=True) as session:
        with step(f"the device names itself in two segments, cut {where}"):
            session.peer.send_cut(whole, [cut], "naming itself")
        expect_allowed_whole(session, f"after an identification in two segments, cut {where}")


@pytest.mark.fota_requirement("FOTA-ID-split")
@pytest.mark.parametrize("first", range(1, STRIDE + 1), ids=lambda first: f"from byte {first}")
def test_identification_in_many_segments_counts(server: ServerBench, first: int) -> None:
    """An identification that is cut every few bytes is whole with its `#`; the sessions together cut it everywhere."""
    whole = identification(server.devices[0].mcuid)
    with server.session(hurried=True) as session:
        with step(f"the device names itself in segments of {STRIDE} bytes, the first of {first}"):
            session.peer.send_cut(whole, range(first, len(whole), STRIDE), "naming itself")
        expect_allowed_whole(session, f"after an identification in segments of {STRIDE} bytes, the first of {first}")


@pytest.mark.fota_requirement("FOTA-ID-split")
def test_identification_byte_by_byte_counts(server: ServerBench) -> None:
    """An identification that comes byte by byte is whole with its `#`."""
    with server.session(hurried=True) as session:
        send_byte_by_byte(session, BYTE_PAUSE)
        expect_allowed_whole(session, "after an identification byte by byte")


@pytest.mark.fota_requirement("FOTA-ID-split")
@pytest.mark.fota_waits
def test_slow_identification_counts(server: ServerBench) -> None:
    """An identification whose bytes come slowly, but within the deadline, is whole with its `#`."""
    with server.session(hurried=True) as session:
        whole_s = min(SLOW, server.target.deadlines.identification / 3)
        send_byte_by_byte(session, whole_s / len(session.device.mcuid))
        expect_allowed_whole(session, f"after an identification that took {whole_s:.1f} s")


@pytest.mark.fota_requirement("FOTA-ID-line-end")
@pytest.mark.parametrize(
    "pieces",
    [
        (b"#\r",),
        (b"#\n",),
        (b"#\r\n",),
        (b"#", b"\r"),
        (b"#", b"\n"),
        (b"#", b"\r\n"),
        (b"#\r", b"\n"),
        (b"#", b"\r", b"\n"),
        (b"", b"#\r\n"),
    ],
    ids=[
        "CR",
        "LF",
        "CR LF",
        "CR later",
        "LF later",
        "CR LF later",
        "CR and then LF",
        "CR later, LF later still",
        "# and CR LF later",
    ],
)
def test_line_end_behind_the_identification_is_ignored(server: ServerBench, pieces: tuple[bytes, ...]) -> None:
    """CR and LF behind the `#`, in its segment or a later one, do not matter."""
    first, *others = pieces
    segments = [identification(server.devices[0].mcuid)[:-1] + first, *others]
    with server.session(hurried=True) as session:
        with step(f"the device names itself, and ends the line: {', then '.join(show(piece) for piece in pieces)}"):
            session.peer.send_pieces(segments, SEGMENT_PAUSE, "naming itself")
        expect_allowed_whole(session, f"after the identification in {' and '.join(show(one) for one in segments)}")


# --- what is no identification ----------------------------------------------------------------------------------------


@pytest.mark.fota_requirement("FOTA-ID-not-text")
@pytest.mark.parametrize(
    "wrong",
    ["high bytes", "UTF-16", "UTF-16 with a byte order mark", "NUL", "cut UTF-8", "digits of other scripts"],
)
def test_identification_that_is_not_text_is_survived(server: ServerBench, wrong: str) -> None:
    """Bytes that are not ASCII text end their session at most: another is served."""
    mcuid = server.devices[0].mcuid
    raw = {
        "high bytes": b"@" + b"\xff" * MCUID_DIGITS + b"#",
        "UTF-16": f"@{mcuid}#".encode("utf-16-le"),
        "UTF-16 with a byte order mark": f"@{mcuid}#".encode("utf-16"),
        "NUL": b"@" + mcuid.encode("ascii") + b"\0#",
        "cut UTF-8": b"@" + mcuid.encode("ascii") + b"\xe2\x82#",
        "digits of other scripts": f"@{mcuid.translate(ARABIC)}#".encode(),
    }[wrong]
    with server.connect() as peer, step("an identification that is not text"):
        peer.send(raw, "naming itself in bytes that are not text")
        peer.drain(server.settle_s)
    server.expect_still_serving(f"an identification of {wrong}, {show(raw)}")


@pytest.mark.fota_requirement("FOTA-ID-over-long")
@pytest.mark.parametrize("size", [IDENTIFICATION_LIMIT + 1, FLOOD], ids=["1,025 bytes", "64 KiB"])
@pytest.mark.parametrize("ending", ["", "#"], ids=["without #", "with #"])
def test_over_long_identification_is_turned_away(server: ServerBench, size: int, ending: str) -> None:
    """An identification of more than 1,024 bytes is refused or closed as soon as it is too long."""
    raw = f"@{server.devices[0].mcuid}".ljust(size - len(ending), "7").encode("ascii") + ending.encode("ascii")
    within_s = at_once_s(server)
    situation = f"after {size} bytes of an identification, {'with' if ending else 'without'} a #"
    accepted = f"{show(DENIED)} or a close within {within_s:g} s, before the deadline for identifications"
    with server.connect() as peer, step(f"an identification of {size} bytes"):
        peer.offer(raw)
        answer = peer.try_read(read_answer, within_s, situation, accepted)
        if answer is None and not peer.ended:
            raise peer.failure(situation, came=f"nothing for {within_s:g} s, still open", accepted=accepted)
        if answer is not None and answer.kind is not Kind.DENIED:
            raise peer.failure(situation, came=f"{show(answer.raw)} ({answer.kind.value})", accepted=accepted)
    server.expect_still_serving(f"an identification of {size} bytes")


@pytest.mark.fota_requirement("FOTA-ID-early-bytes")
@pytest.mark.parametrize(
    "early",
    [ACK, 2 * ACK, 5 * ACK, b"\r\n" + ACK, b"X", b"\xff"],
    ids=["an ack", "two acks", "five acks", "a line end and an ack", "a letter", "a high byte"],
)
def test_early_bytes_end_the_session(server: ServerBench, early: bytes) -> None:
    """Bytes in the segment of the identification are acks of nothing: no record comes, and the server closes."""
    with server.session() as session:
        with step(f"the device names itself, and sends {show(early)} along"):
            session.peer.send(identification(session.device.mcuid) + early, "naming itself")
        situation = f"after the identification with {show(early)} behind it in one segment"
        accepted = f"a close, behind {show(ALLOWED)}, {show(DENIED)} or nothing, and no record"
        with step("the server ends the session"):
            # Short of the deadline for acks, at which any session ends.
            within_s = min(server.target.timeouts.close, EARLY * server.target.deadlines.ack)
            came = session.peer.drain(within_s)
            if came not in (b"", ALLOWED, DENIED):
                raise session.peer.failure(situation, came=show(came), accepted=accepted)
            if not session.peer.ended:
                came_then = f"{show(came)}, and no close within {within_s:g} s"
                raise session.peer.failure(situation, came=came_then, accepted=accepted)


ARABIC: Final = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")
"""Digits that are digits to Unicode, and to careless code."""


def at_once_s(server: ServerBench) -> float:
    """Seconds in which a server answers that does not wait for more: short of the deadline, which is no answer."""
    return min(server.target.timeouts.answer, EARLY * server.target.deadlines.identification)


def expect_denial(session: PlayedDevice, raw: bytes, situation: str, within_s: float | None = None) -> None:
    """Send something in the place of an identification; demand `@0#`."""
    within_s = within_s or session.target.timeouts.answer
    accepted = f"{show(DENIED)} (update denied) within {within_s:g} s"
    with step(f"{show(raw)} in the place of a known identification"):
        session.peer.send(raw, "naming itself")
    with step("the server denies the update"):
        answer = session.peer.read(read_answer, within_s, situation, accepted)
        if answer.kind is not Kind.DENIED:
            raise session.peer.failure(situation, came=f"{show(answer.raw)} ({answer.kind.value})", accepted=accepted)


def send_byte_by_byte(session: PlayedDevice, pause_s: float) -> None:
    """Name itself, each byte in a segment of its own."""
    whole = identification(session.device.mcuid)
    with step(f"the device names itself byte by byte, {pause_s:.3f} s apart"):
        session.peer.send_pieces([whole[at : at + 1] for at in range(len(whole))], pause_s, "naming itself")


def expect_allowed_whole(session: PlayedDevice, situation: str) -> None:
    """Demand that an identification was understood, and that nothing of it is taken for an ack behind it."""
    session.expect_allowed(situation)
    session.ack_permission()
    session.take(2)
    session.take_record()
    session.leave()
