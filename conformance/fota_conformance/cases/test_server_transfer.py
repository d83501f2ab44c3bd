"""Transfer: the records of a file, one frame for each ack, and the end frame."""

from typing import Final

import pytest

from fota_conformance.exchange import PlayedDevice
from fota_conformance.hosts import Wanted
from fota_conformance.images import MIXED
from fota_conformance.reporting import step
from fota_conformance.server_bench import ServerBench
from fota_conformance.wire import ACK, DENIED, Frame, Kind, end, read_answer, read_transfer, show

SMALL: Final = "made-1"
"""The image where it does not matter."""
WAITS: Final = "nothing: the next frame waits for the ack of this one"
"""What may follow a frame that is not acked."""

pytestmark = pytest.mark.fota_devices(SMALL)


def each_image(*names: str) -> pytest.MarkDecorator:
    """A case for each of some images."""
    return pytest.mark.parametrize((), [pytest.param(id=name, marks=pytest.mark.fota_devices(name)) for name in names])


def each_version(**versions: str) -> pytest.MarkDecorator:
    """A case for each of some versions in the registry."""
    return pytest.mark.parametrize(
        (),
        [
            pytest.param(id=name.replace("_", " "), marks=pytest.mark.fota_devices(Wanted(SMALL, version)))
            for name, version in versions.items()
        ],
    )


# --- records ----------------------------------------------------------------------------------------------------------


@pytest.mark.fota_requirement("FOTA-XFER-data-records")
@each_image("blink_1.s19", "s3_records.s19", "s9_after_s2.s19", "counted.s19", "descending.s19", MIXED)
def test_all_data_records_are_sent(server: ServerBench) -> None:
    """The S1, S2 and S3 records of a file are sent in its order, and nothing else of it."""
    with server.session(hurried=True) as session:
        take_image(session)


@pytest.mark.fota_requirement("FOTA-XFER-no-line-end")
def test_records_have_no_line_end(server: ServerBench) -> None:
    """Every record is as long as its count field says, and no line end follows."""
    with server.session(hurried=True) as session:
        session.begin()
        session.take_record()
        with step("nothing follows the first record"):
            accepted = "nothing: a record is sent without a line end"
            session.peer.stay_quiet(server.settle_s, "after the first record, before the device acked it", accepted)
        session.ack()
        session.take_rest()
        session.expect_any_end_frame()
        session.peer.send(ACK, "acking the end frame")


@pytest.mark.fota_requirement("FOTA-XFER-one-per-ack")
@pytest.mark.parametrize("place", ["first", "second", "later", "last"])
def test_next_frame_waits_for_the_ack(server: ServerBench, place: str) -> None:
    """Behind a record nothing comes, and the connection stays open, until the record is acked."""
    with server.session(hurried=True) as session:
        session.begin()
        session.take(
            {
                "first": 0,
                "second": 1,
                "later": min(9, len(session.firmware.records) - 1),
                "last": len(session.firmware.records) - 1,
            }[place]
        )
        session.take_record()
        with step("the server waits for the ack"):
            situation = f"after the {place} record, before the device acked it"
            session.peer.stay_quiet(server.settle_s, situation, WAITS)
        session.leave()


@pytest.mark.fota_requirement("FOTA-XFER-first-line")
@each_image("no_s0.s19")
def test_first_line_is_sent_if_it_is_data(server: ServerBench) -> None:
    """Of a file without an S0 the first record is sent, too."""
    with server.session(hurried=True) as session:
        take_image(session)


@pytest.mark.fota_requirement("FOTA-XFER-long-file")
@each_image("demo_16k.s19")
def test_long_file_is_sent_whole(server: ServerBench) -> None:
    """A file of 1,026 lines is sent whole."""
    with server.session(hurried=True) as session:
        take_image(session)


@pytest.mark.fota_requirement("FOTA-XFER-line-ends")
@each_image("blink_1.s19", "crlf.s19", "no_final_line_end.s19")
def test_line_ends_of_a_file_do_not_matter(server: ServerBench) -> None:
    """A file with LF, CR LF, or nothing behind its last line is sent whole."""
    with server.session(hurried=True) as session:
        take_image(session)


@pytest.mark.fota_requirement("FOTA-XFER-lower-case-whole")
@each_image("lower_case.s19")
def test_lower_case_file_is_whole_or_refused(server: ServerBench) -> None:
    """A file in lower-case hex is refused, or all its records come, uncut, in either case."""
    with server.session(hurried=True) as session:
        situation = "after the identification of a device whose file is in lower-case hex"
        frames = take_or_be_refused(session, situation)
        records = [frame.raw.upper() for frame in frames if frame.kind is Kind.RECORD]
        if frames and records != list(session.firmware.records):
            wanted = session.firmware.records
            at = next((at for at, pair in enumerate(zip(records, wanted, strict=False)) if pair[0] != pair[1]), None)
            came = f"{len(records)} of {len(wanted)} records"
            if at is not None:
                came += f", record {at + 1} is {show(frames[at].raw)}, expected {show(wanted[at])}"
            accepted = "a refusal before any record, or every record of the file, whole"
            raise session.peer.failure("comparing the records with the file", came=came, accepted=accepted)


@pytest.mark.fota_requirement("FOTA-XFER-upper-case")
@each_image("lower_case.s19")
def test_upper_case_is_sent(server: ServerBench) -> None:
    """A file in lower-case hex is served, in upper case."""
    with server.session(hurried=True) as session:
        take_image(session)


@pytest.mark.fota_requirement("FOTA-XFER-own-image")
@pytest.mark.fota_devices("made-1", "made-2")
def test_every_device_gets_its_own_image(server: ServerBench) -> None:
    """Of two devices in turn, each gets its own image every time."""
    for which in (0, 1, 1, 0):
        with step(f"device {which + 1}"), server.session(server.devices[which], hurried=True) as session:
            take_image(session)


@pytest.mark.fota_requirement("FOTA-XFER-own-image")
@pytest.mark.fota_devices("made-1", "made-2")
def test_denied_device_leaves_no_trace(server: ServerBench) -> None:
    """Between two devices one is denied, and each gets its own image."""
    for which in (0, 1):
        with server.session() as session, step("a device that nobody knows"):
            session.peer.send(f"@{server.stranger()}#".encode("ascii"), "naming itself")
            session.peer.drain(server.settle_s)
        with step(f"device {which + 1}"), server.session(server.devices[which], hurried=True) as session:
            take_image(session)


# --- the end frame ----------------------------------------------------------------------------------------------------


@pytest.mark.fota_requirement("FOTA-END-version")
@each_version(two_digits="16", letters="FF", letter_behind="2A", one_digit="7", zero="0", four="4", leading_zero="07")
def test_end_frame_carries_the_version(server: ServerBench) -> None:
    """The end frame carries the version of the registry, as it is there."""
    with server.session(hurried=True) as session:
        session.begin()
        session.take_rest()
        session.expect_end_frame()
        session.peer.send(ACK, "acking the end frame")


@pytest.mark.fota_requirement("FOTA-END-lower-case-version")
@pytest.mark.fota_fresh
@each_version(digit_and_letter="1a", letter="c", letters_of_either_case="fF")
def test_lower_case_version_keeps_its_letters(server: ServerBench) -> None:
    """A version in lower case is refused before any record, or sent in upper case, whole."""
    with server.session(hurried=True) as session:
        version = session.device.version
        situation = f"after the identification of a device whose version is {version!r}"
        frames = take_or_be_refused(session, situation)
        wanted = end(version.upper())
        if frames and frames[-1].raw != wanted:
            raise session.peer.failure(
                f"after {len(frames) - 1} records of a device whose version is {version!r}",
                came=show(frames[-1].raw),
                accepted=f"{show(wanted)}, or a refusal before any record",
            )


@pytest.mark.fota_requirement("FOTA-END-bad-version")
@pytest.mark.fota_fresh
@each_version(
    none="",
    three_digits="100",
    a_letter_that_is_no_digit="G1",
    a_point="1.6",
    a_sign="-1",
    a_prefix="0x",
    digits_of_another_script="１６",  # noqa: RUF001 - they are digits to Unicode, and to careless code
)
def test_update_that_cannot_be_ended_is_not_begun(server: ServerBench) -> None:
    """A device whose version is not one or two hexadecimal digits is refused, and gets no record."""
    with server.session(hurried=True) as session:
        version = session.device.version
        session.hear_refusal(f"after the identification of a device whose version is {version!r}")


@pytest.mark.fota_requirement("FOTA-END-closed")
def test_server_waits_for_the_ack_of_the_end_frame(server: ServerBench) -> None:
    """Before the end frame is acked nothing more comes, and no close."""
    with server.session(hurried=True) as session:
        session.begin()
        session.take_rest()
        session.expect_any_end_frame()
        with step("the server waits for the ack"):
            accepted = "nothing, and no close: the device may be checking its flash"
            session.peer.stay_quiet(server.settle_s, "after the end frame, before the device acked it", accepted)
        session.peer.send(ACK, "acking the end frame")


@pytest.mark.fota_requirement("FOTA-END-closed")
def test_server_closes_after_the_ack_of_the_end_frame(server: ServerBench) -> None:
    """Behind the ack of the end frame nothing comes but a close."""
    with server.session(hurried=True) as session:
        session.begin()
        session.take_rest()
        session.expect_any_end_frame()
        session.peer.send(ACK, "acking the end frame")
        with step("the server closes the connection"):
            within_s = server.target.timeouts.close + server.target.deadlines.grace
            session.peer.expect_close(within_s, "after the ack of the end frame")


def take_image(session: PlayedDevice) -> None:
    """Demand every record of the image and then an end frame, whatever its version; ack it and leave."""
    session.begin()
    session.take_rest()
    session.expect_any_end_frame()
    session.peer.send(ACK, "acking the end frame")


def take_or_be_refused(session: PlayedDevice, situation: str) -> list[Frame]:
    """All frames up to the end frame, acked and not judged; none where the server refuses before any record."""
    peer, within_s = session.peer, session.target.timeouts.frame
    accepted = "a refusal (@0#, @4#@0# or a close) before any record, or the whole update"
    session.identify()
    with step("the server refuses the device, or updates it"):
        answer = peer.try_read(read_answer, session.target.timeouts.answer, situation, accepted)
        if answer is None and not peer.ended:
            raise peer.failure(situation, came="no answer, still open", accepted=accepted)
        if answer is None or answer.kind is Kind.DENIED:
            return []
        if session.acks_permission:
            peer.offer(ACK)
        frames: list[Frame] = []
        while not frames or frames[-1].kind is Kind.RECORD:
            frame = peer.try_read(read_transfer, within_s, f"{situation}, behind {len(frames)} records", accepted)
            if frame is None:
                break
            frames.append(frame)
            peer.offer(ACK)
        refused = not frames and (peer.pending == DENIED or (peer.ended and not peer.pending))
        if not refused and (not frames or frames[-1].kind is not Kind.END):
            came = f"{show(peer.pending)} and then {peer.ended or f'nothing for {within_s:g} s'}"
            raise peer.failure(f"{situation}, behind {len(frames)} records", came=came, accepted=accepted)
        return frames
