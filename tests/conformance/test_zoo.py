"""The zoo by plain sockets, without the kit: the good targets are good, and each fault of the reference server shows.

A probe plays one situation and says whether the target behaved. Each is tried on the good target and on the broken one,
so a probe that is always content, or never, fails as well as a fault that does not show.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import fota_fixtures
from fota_conformance.catalogue import load
from fota_conformance.ports import free_port
from fota_conformance.zoo import faults
from fota_conformance.zoo.device import APPLICATION, BOOTLOADER, FLASH_BYTES
from fota_conformance.zoo.faults import DEVICE_FAULTS, FAULTS, SERVER_FAULTS, Fault

QUIET_S = 0.4
"""Seconds without a byte after which a target is taken to say nothing more."""
DEADLINE_S = 1.0
GRACE_S = 0.2
ONE, TWO, ODD = "1" * 25, "2" * 25, "3" * 25


def record(kind: int, address: int, data: bytes) -> str:
    """A record with a two-byte address."""
    body = bytes([len(data) + 3]) + address.to_bytes(2) + data
    return f"S{kind}{body.hex().upper()}{0xFF - sum(body) % 256:02X}"


def s19(*lines: str) -> bytes:
    """A file with header and termination."""
    return "\n".join([record(0, 0, b"zoo"), *lines, record(9, 0, b""), ""]).encode()


RECORDS = {
    "one.s19": [record(1, 0x4000 + 16 * index, bytes([0xA0 + index] * 16)) for index in range(4)],
    "two.s19": [record(1, 0x4000 + 16 * index, bytes([0xB0 + index] * 16)) for index in range(4)],
}
FILES = {name: s19(*lines) for name, lines in RECORDS.items()}


def frames_of(name: str, version: str) -> list[bytes]:
    """What a device of a file gets behind its permission."""
    return [*(line.encode() for line in RECORDS[name]), f"@{version}##".encode()]


@dataclass
class Running:
    """A server of the zoo that listens."""

    process: subprocess.Popen[str]
    port: int
    folder: Path
    handshake: str
    open: list[socket.socket] = field(default_factory=list)

    def connect(self, said: bytes = b"") -> socket.socket:
        """A new connection on which something was said."""
        link = socket.create_connection(("127.0.0.1", self.port), timeout=5)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.open.append(link)
        link.sendall(said)
        return link

    def update(self, identification: bytes, answers: bytes = b"") -> list[bytes]:
        """All frames behind `@4#` of a session in which each is acked, with a last word instead of the first ack."""
        link = self.connect(identification)
        if self.handshake == "wait":
            assert heard(link) == b"@4#"
            link.sendall(b"@")
        came = heard(link).removeprefix(b"@4#")
        frames = []
        while came:
            frames.append(came)
            link.sendall(answers or b"@")
            answers = b""
            came = b"" if came.startswith(b"@") else heard(link)
        link.close()
        return frames

    def is_up(self) -> bool:
        """Whether the process runs and updates a device, after it had time to die."""
        time.sleep(0.1)
        if self.process.poll() is not None:
            return False
        return self.update(identified(ONE)) == frames_of("one.s19", "16")


def identified(mcuid: str) -> bytes:
    return f"@{mcuid}#".encode()


def heard(link: socket.socket, within_s: float = QUIET_S) -> bytes:
    """What comes until a short silence or the close."""
    came = b""
    with suppress(OSError):
        link.settimeout(within_s)
        while data := link.recv(4096):
            came += data
            if came == b"@4#" or not came.startswith(b"@4#"):
                link.settimeout(0.05)
    return came


def closed(link: socket.socket, within_s: float = QUIET_S) -> bool:
    """Whether a connection ends in time, whatever comes before that."""
    until = time.monotonic() + within_s
    try:
        while (left := until - time.monotonic()) > 0:
            link.settimeout(left)
            if not link.recv(4096):
                return True
    except TimeoutError:
        return False
    except OSError:
        return True
    return False


@contextmanager
def zoo_server(
    folder: Path, fault: Fault | None, *, handshake: str = "immediate", revision: str = "A"
) -> Iterator[Running]:
    """A server of the zoo with two good devices and what a probe adds."""
    firmware = folder / "firmware"
    firmware.mkdir()
    for name, content in FILES.items():
        (firmware / name).write_bytes(content)
    (folder / "registry.txt").write_text(f"{ONE},one.s19,16\n{TWO},two.s19,2A\n")
    if fault is not None:
        handshake, revision = fault.handshake, fault.revision
    port = free_port("127.0.0.1")
    command = [sys.executable, "-m", "fota_conformance.zoo", "server", "--port", str(port)]
    command += ["--registry", str(folder / "registry.txt"), "--firmware", str(firmware), "--logs", str(folder)]
    command += ["--handshake", handshake, "--revision", revision]
    command += ["--deadline", str(DEADLINE_S), "--grace", str(GRACE_S)]
    if fault is not None:
        command += ["--fault", fault.name]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    running = Running(process, port, folder, handshake)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        yield running
    finally:
        for link in running.open:
            link.close()
        process.kill()
        process.communicate(timeout=10)


def enter(server: Running, line: str, name: str = "", content: bytes = b"") -> None:
    """Add a device to the registry, and its file."""
    with (server.folder / "registry.txt").open("a") as registry:
        registry.write(f"{line}\n")
    if name:
        (server.folder / "firmware" / name).write_bytes(content)


# --- probes of servers: whether the server behaved ---


def each_gets_its_own(server: Running) -> bool:
    server.update(identified(ONE))
    return server.update(identified(TWO)) == frames_of("two.s19", "2A")


def silence_holds_nobody(server: Running) -> bool:
    server.connect()
    return server.is_up()


def first_line_is_sent(server: Running) -> bool:
    enter(server, f"{ODD},odd.s19,1", "odd.s19", FILES["one.s19"].split(b"\n", 1)[1])
    return server.update(identified(ODD))[0] == frames_of("one.s19", "1")[0]


def missing_file_is_refused(server: Running) -> bool:
    enter(server, f"{ODD},none.s19,1")
    return heard(server.connect(identified(ODD))) == b"@0#" and server.is_up()


def long_file_is_sent(server: Running) -> bool:
    lines = [record(1, 16 * index, bytes(16)) for index in range(301)]
    enter(server, f"{ODD},odd.s19,1", "odd.s19", s19(*lines))
    return len(server.update(identified(ODD))) == 302 and server.is_up()


def permission_comes_apart(server: Running) -> bool:
    link = server.connect(identified(ONE))
    return link.recv(4096) == b"@4#"


def wrong_ack_is_survived(server: Running) -> bool:
    server.update(identified(ONE), b"?")
    return server.is_up()


def broken_session_starts_anew(server: Running) -> bool:
    link = server.connect(identified(ONE))
    heard(link)
    link.sendall(b"@")
    heard(link)
    link.close()
    return server.is_up()


def not_text_is_survived(server: Running) -> bool:
    server.connect(b"@\xff\xfe#")
    return server.is_up()


def corrupt_record_is_refused(server: Running) -> bool:
    enter(server, f"{ODD},odd.s19,1", "odd.s19", FILES["one.s19"].replace(b"A1A1A1", b"A1G1A1"))
    return heard(server.connect(identified(ODD))) == b"@0#"


def outside_is_refused(server: Running) -> bool:
    (server.folder / "secret.s19").write_bytes(FILES["two.s19"])
    enter(server, f"{ODD},../secret.s19,1")
    return heard(server.connect(identified(ODD))) == b"@0#"


def spaces_do_not_matter(server: Running) -> bool:
    enter(server, f" {ODD} , one.s19 , 16 ")
    return server.update(identified(ODD)) == frames_of("one.s19", "16")


def lower_case_is_sent_whole(server: Running) -> bool:
    lines = FILES["one.s19"].decode().split("\n")
    lower = "\n".join(line[:1] + line[1:].lower() for line in lines)
    enter(server, f"{ODD},odd.s19,16", "odd.s19", lower.encode())
    return server.update(identified(ODD)) == frames_of("one.s19", "16")


def long_version_is_refused(server: Running) -> bool:
    enter(server, f"{ODD},one.s19,123")
    return heard(server.connect(identified(ODD))) == b"@0#"


def lower_case_version_is_whole(server: Running) -> bool:
    enter(server, f"{ODD},one.s19,1a")
    return server.update(identified(ODD))[-1] == b"@1A##"


def newest_session_wins(server: Running) -> bool:
    older = server.connect(identified(ONE))
    heard(older)
    newer = server.connect(identified(ONE))
    return heard(newer) == b"@4#" and closed(older)


def split_identification_counts(server: Running) -> bool:
    link = server.connect(b"@11111")
    time.sleep(0.1)
    link.sendall(b"1" * 20 + b"#")
    return heard(link).startswith(b"@4#")


def malformed_line_hides_nobody(server: Running) -> bool:
    enter(server, "nonsense")
    enter(server, f"{ODD},one.s19,16")
    return server.update(identified(ODD)) == frames_of("one.s19", "16")


def line_end_behind_id_is_ignored(server: Running) -> bool:
    return server.update(identified(ONE) + b"\r\n") == frames_of("one.s19", "16")


def line_end_behind_ack_is_ignored(server: Running) -> bool:
    return server.update(identified(ONE), b"@\r\n") == frames_of("one.s19", "16")


def close_is_survived(server: Running) -> bool:
    heard(link := server.connect(identified(ONE)))
    link.close()
    return server.is_up()


def refusal_comes_first(server: Running) -> bool:
    enter(server, f"{ODD},none.s19,1")
    return heard(server.connect(identified(ODD))) == b"@0#"


def nothing_leaks(server: Running) -> bool:
    descriptors = Path(f"/proc/{server.process.pid}/fd")
    server.update(identified(ONE))
    time.sleep(GRACE_S + 0.3)
    before = len(list(descriptors.iterdir()))
    for _ in range(3):
        server.update(identified(ONE))
    time.sleep(GRACE_S + 0.3)
    return len(list(descriptors.iterdir())) == before


SERVER_PROBES: dict[str, Callable[[Running], bool]] = {
    "d01-first-image": each_gets_its_own,
    "d02-one-client": silence_holds_nobody,
    "d03-first-line-dropped": first_line_is_sent,
    "d04-missing-file-kills": missing_file_is_refused,
    "d04-long-file-kills": long_file_is_sent,
    "d05-one-segment": permission_comes_apart,
    "d06-wrong-ack-kills": wrong_ack_is_survived,
    "d07-goes-on-after-error": broken_session_starts_anew,
    "d08-not-text-kills": not_text_is_survived,
    "d09-unchecked": corrupt_record_is_refused,
    "d10-any-path": outside_is_refused,
    "d11-spaces-kept": spaces_do_not_matter,
    "d12-lower-case-cut": lower_case_is_sent_whole,
    "d13-long-version-endless": long_version_is_refused,
    "d13-version-cut": lower_case_version_is_whole,
    "d14-two-sessions": newest_session_wins,
    "d15-one-read": split_identification_counts,
    "d16-malformed-line-hides": malformed_line_hides_nobody,
    "d17-id-line-end-malformed": line_end_behind_id_is_ignored,
    "d17-ack-line-end-wrong": line_end_behind_ack_is_ignored,
    "d18-close-kills": close_is_survived,
    "d19-late-refusal": refusal_comes_first,
    "d20-leaky-log": nothing_leaks,
}


def by_name(name: str) -> Fault:
    return next(fault for fault in FAULTS if fault.name == name)


@pytest.mark.parametrize("name", SERVER_PROBES)
def test_good_server_behaves(tmp_path: Path, name: str) -> None:
    """The good server, under the handshake of the fault, does right what the broken one does wrong."""
    fault = by_name(name)
    with zoo_server(tmp_path, None, handshake=fault.handshake) as server:
        assert SERVER_PROBES[name](server)


@pytest.mark.parametrize("name", SERVER_PROBES)
def test_fault_of_the_reference_server_shows(tmp_path: Path, name: str) -> None:
    """A server with a fault of the reference server's shows it."""
    fault = by_name(name)
    broken = Fault(fault.name, fault.target, fault.breaks, "A", fault.handshake)
    with zoo_server(tmp_path, broken) as server:
        assert not SERVER_PROBES[name](server)


@pytest.mark.parametrize(
    ("handshake", "acks"),
    [("wait", True), ("immediate", True), ("immediate", False), ("auto", True), ("auto", False)],
)
def test_good_server_serves_both_sorts_of_device(tmp_path: Path, handshake: str, acks: bool) -> None:
    """A device gets every frame and a close, whether it acks its permission or not, where the policy allows."""
    with zoo_server(tmp_path, None, handshake=handshake) as server:
        link = server.connect(identified(ONE))
        frames = frames_of("one.s19", "16")
        if acks:
            assert link.recv(3) == b"@4#"
            link.sendall(b"@")
        else:
            assert link.recv(3, socket.MSG_WAITALL) == b"@4#"
        for frame in frames:
            link.settimeout(5)
            assert link.recv(len(frame), socket.MSG_WAITALL) == frame
            link.sendall(b"@")

        assert link.recv(1) == b""


def test_good_server_knows_hexadecimal_devices(tmp_path: Path) -> None:
    """Under revision B an MCUID is hexadecimal, in either case."""
    with zoo_server(tmp_path, None, handshake="wait", revision="B") as server:
        enter(server, "BEEF,one.s19,16")

        assert server.update(b"@beef#") == frames_of("one.s19", "16")


def test_stopping_server_lets_an_update_end(tmp_path: Path) -> None:
    """SIGTERM turns new devices away, lets the update that is under way end, and then ends the server with status 0."""
    with zoo_server(tmp_path, None, handshake="wait") as server:
        silent = server.connect()
        link = server.connect(identified(ONE))
        assert heard(link) == b"@4#"
        server.process.send_signal(signal.SIGTERM)
        assert closed(silent)
        with pytest.raises(OSError, match="refused"):
            server.connect()
        for frame in frames_of("one.s19", "16"):
            link.sendall(b"@")
            assert heard(link) == frame
        link.sendall(b"@")

        assert server.process.wait(5) == 0


# --- devices ---


@dataclass
class Played:
    """What one run of a device came to."""

    said: bytes
    outcome: dict[str, Any]
    flash: bytes


Script = list[bytes | float]
"""What the server says, byte strings each after an ack, and seconds of silence."""


def image(name: str) -> list[bytes]:
    """The data records of a fixture."""
    return [line for line in fota_fixtures.read(name).splitlines() if line[:2] in (b"S1", b"S2", b"S3")]


def play(folder: Path, fault: str, script: Script) -> Played:
    """Serve a device of the zoo: its id, then each word of the script, with an ack after each but the first."""
    flash, outcome = folder / "flash.bin", folder / "outcome.json"
    said = b""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        command = [sys.executable, "-m", "fota_conformance.zoo", "device", "--mcuid", ONE, "--flash", str(flash)]
        command += ["--server", f"127.0.0.1:{listening.getsockname()[1]}", "--outcome", str(outcome)]
        command += ["--deadline", str(DEADLINE_S)] + (["--fault", fault] if fault else [])
        process = subprocess.Popen(command)
        try:
            listening.settimeout(10)
            link, _ = listening.accept()
            with link, suppress(OSError):
                link.settimeout(5)
                while b"#\r\n" not in said:
                    said += link.recv(100)
                said = b""
                for word in script:
                    if isinstance(word, float):
                        time.sleep(word)
                        continue
                    link.sendall(word)
                    link.settimeout(DEADLINE_S + 1.0)
                    if word != b"@4#":
                        came = link.recv(100)
                        said += came
                        if not came:
                            break
                link.shutdown(socket.SHUT_WR)
                while came := link.recv(100):
                    said += came
            process.wait(10)
        finally:
            process.kill()
            process.wait()
    return Played(said, json.loads(outcome.read_text()), flash.read_bytes())


def whole(name: str) -> Script:
    """A whole update."""
    return [b"@4#", *image(name), b"@16##"]


def test_good_device_is_updated(tmp_path: Path) -> None:
    """A device that gets a whole image acks each frame once, holds the image, starts it, and says so."""
    played = play(tmp_path, "", whole("demo_16k.s19"))

    facts = fota_fixtures.fixture("demo_16k.s19").image
    assert facts is not None
    assert played.said == b"@" * (1024 + 1)
    assert played.outcome == {"outcome": "updated", "reason": None, "booted": True, "image_crc": "de55ad9e"}
    assert played.flash[:APPLICATION] == BOOTLOADER
    assert played.flash[0x4000:0x4004] == bytes.fromhex("00000120")
    assert played.flash[0x8000:] == b"\xff" * (FLASH_BYTES - 0x8000)


@pytest.mark.parametrize("name", ["blink_1.s19", "large_300k.s19"])
def test_good_device_replaces_its_image(tmp_path: Path, name: str) -> None:
    """A second update leaves the second image, and no trace of the first in the sectors that it touches."""
    play(tmp_path, "", whole("demo_16k.s19"))
    played = play(tmp_path, "", whole(name))

    assert played.outcome["outcome"] == "updated"
    assert played.outcome["booted"]


def test_refused_device_starts_its_old_image(tmp_path: Path) -> None:
    """A device that is denied keeps and starts what it holds."""
    held = play(tmp_path, "", whole("blink_1.s19")).flash
    played = play(tmp_path, "", [b"@0#"])

    assert played.said == b""
    assert (played.outcome["outcome"], played.outcome["booted"]) == ("refused", True)
    assert played.flash == held


@pytest.mark.parametrize("cut", [1, 60, 85, 86])
def test_interrupted_device_starts_nothing(tmp_path: Path, cut: int) -> None:
    """After an interruption nothing is started, neither then nor at the next start, and the next update repairs it."""
    play(tmp_path, "", whole("blink_1.s19"))
    interrupted = play(tmp_path, "", whole("blink_1.s19")[: 1 + cut])
    next_start = play(tmp_path, "", [b"@0#"])
    repaired = play(tmp_path, "", whole("blink_2.s19"))

    assert (interrupted.outcome["outcome"], interrupted.outcome["booted"]) == ("failed", False)
    assert not next_start.outcome["booted"]
    assert (repaired.outcome["outcome"], repaired.outcome["image_crc"]) == ("updated", "69fd0b93")


def test_killed_device_keeps_what_was_acked(tmp_path: Path) -> None:
    """A kill in mid-update leaves a flash that is half written, as a power cut would."""
    flash = tmp_path / "flash.bin"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        command = [sys.executable, "-m", "fota_conformance.zoo", "device", "--mcuid", ONE, "--flash", str(flash)]
        process = subprocess.Popen([*command, "--server", f"127.0.0.1:{listening.getsockname()[1]}"])
        try:
            link, _ = listening.accept()
            with link:
                link.sendall(b"@4#")
                heard(link)
                for line in image("demo_16k.s19")[:512]:
                    link.sendall(line)
                    assert link.recv(1) == b"@"
                os.kill(process.pid, signal.SIGKILL)
                process.wait(5)
        finally:
            process.kill()
            process.wait()

    assert flash.read_bytes()[0x5FF0:0x6000] == bytes.fromhex(image("demo_16k.s19")[511][8:-2].decode())
    assert flash.read_bytes()[0x6000:] == b"\xff" * (FLASH_BYTES - 0x6000)


def acked(played: Played) -> int:
    """How many acks came."""
    return played.said.count(b"@")


FIRST = image("blink_1.s19")[0]
BAD_CHECKSUM = FIRST[:-2] + b"00"

DEVICE_PROBES: dict[str, tuple[Script, Callable[[Played], bool]]] = {
    "bad-checksum-taken": ([b"@4#", BAD_CHECKSUM], lambda played: not played.said),
    "addresses-wrap": ([b"@4#", record(1, 0, bytes(8)).encode()], lambda played: not played.said),
    "bootloader-overwritten": (
        [b"@4#", record(1, 0, bytes(8)).encode()],
        lambda played: played.flash[:APPLICATION] == BOOTLOADER,
    ),
    "double-ack": ([b"@4#", FIRST], lambda played: acked(played) == 1),
    "seal-unchecked": ([b"@4#", *image("blink_1_unsealed.s19"), b"@16##"], lambda played: acked(played) == 86),
    "half-is-enough": ([b"@4#", *image("blink_1.s19")[:40], b"@16##"], lambda played: acked(played) == 40),
    "bad-image-boots": ([b"@4#", *image("blink_1.s19")[:70], b"@16##"], lambda played: not played.outcome["booted"]),
    "zero-is-refusal": ([b"@4#", *image("blink_1.s19"), b"@0##"], lambda played: acked(played) == 87),
    "four-is-permission": ([b"@4#", *image("blink_1.s19"), b"@4##"], lambda played: acked(played) == 87),
    "late-refusal-acked": ([b"@4#", b"@0#"], lambda played: not played.said),
    "frame-dropped": ([b"@4#" + FIRST], lambda played: acked(played) == 1),
    "nothing-is-update": ([b"@4#", b"@16##"], lambda played: not played.said),
    "denied-says-updated": ([b"@0#"], lambda played: played.outcome["outcome"] == "refused"),
    "denied-talks": ([b"@0#"], lambda played: not played.said),
    "end-acked-early": ([b"@4#", *image("blink_1.s19"), b"@16#"], lambda played: acked(played) == 86),
}


@pytest.mark.parametrize("name", DEVICE_PROBES)
def test_good_device_behaves(tmp_path: Path, name: str) -> None:
    """The good device does right what the broken one does wrong."""
    script, behaved = DEVICE_PROBES[name]

    assert behaved(play(tmp_path, "", script))


@pytest.mark.parametrize("name", DEVICE_PROBES)
def test_fault_of_a_device_shows(tmp_path: Path, name: str) -> None:
    """A broken device shows its fault."""
    script, behaved = DEVICE_PROBES[name]

    assert not behaved(play(tmp_path, name, script))


def test_device_gives_up_a_silent_server(tmp_path: Path) -> None:
    """A device closes within its deadline when no frame comes."""
    began = time.monotonic()
    played = play(tmp_path, "", [b"@4#", DEADLINE_S + 0.5])

    assert played.outcome["outcome"] == "failed"
    assert time.monotonic() - began < DEADLINE_S + 10


# --- the table ---


def test_names_are_unique() -> None:
    """Every fault has a name of its own, and a sentence that says what it is."""
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert all(fault.title.endswith(".") for fault in FAULTS)


def test_every_fault_breaks_a_requirement_of_its_role() -> None:
    """What a fault breaks is in the catalogue, and concerns its role, revision and handshake."""
    for fault in FAULTS:
        requirement = load().requirement(fault.breaks)
        assert (fault.name, fault.role) == (fault.name, requirement.role)
        assert requirement.revision in ("", fault.revision), fault.name
        assert not requirement.handshake or fault.handshake in requirement.handshake, fault.name


def test_every_requirement_has_a_fault() -> None:
    """For every requirement there is a target that breaks it."""
    broken = {fault.breaks for fault in FAULTS}

    assert [] == [requirement.id for requirement in load().requirements if requirement.id not in broken]


def test_zoo_is_large_enough() -> None:
    """All of the reference server's defects are there, and more."""
    defects = {int(fault.name[1:3]) for fault in SERVER_FAULTS if re.match(r"d\d\d-", fault.name)}

    assert set(range(1, 21)) == defects
    assert len(SERVER_FAULTS) >= 24
    assert len(DEVICE_FAULTS) >= 16


def test_zoo_imports_the_standard_library_alone() -> None:
    """Codec and targets share no line, so that they share no mistake."""
    folder = Path(faults.__file__).parent
    imported = set()
    for path in folder.glob("*.py"):
        imported.update(re.findall(r"^(?:from|import) ([a-z_]+(?:\.zoo)?)", path.read_text(), re.MULTILINE))

    assert imported <= set(sys.stdlib_module_names) | {"fota_conformance.zoo"}
