"""A device of the protocol in a page, independent of everything else here, good unless a fault is asked for.

Standard library only; one session, then its flash dump and outcome, then the exit. It is the known good target, and
with `--fault` the known bad ones, by which the kit itself is judged.
"""

import argparse
import json
import socket
import time
import zlib
from pathlib import Path

FAULTS = {
    "drops": "one record is acked and does not reach the flash",
    "wrong-flash": "the dump is of something else",
    "double-ack": "records are acked twice",
    "silent": "no ack for the third record",
    "nack": "something else than an ack",
    "refuses": "the outcome says failed",
    "wrong-id": "it names itself as somebody else",
    "stays": "the command does not end",
    "never-comes": "the command ends before it connects",
    "no-dump": "no dump is written",
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True)
    parser.add_argument("--mcuid", required=True)
    parser.add_argument("--dump", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--acks-permission", action="store_true")
    parser.add_argument("--fault", choices=FAULTS)
    args = parser.parse_args()
    if args.fault == "never-comes":
        raise SystemExit("no modem")

    host, _, port = args.server.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as link:
        link.sendall(f"@{args.mcuid if args.fault != 'wrong-id' else '7' * 25}1415#\r\n".encode())
        lines = update(link, args.acks_permission, args.fault)
    if args.fault == "stays":
        time.sleep(60)
    cells: dict[int, int] = {}
    for line in lines:
        digits = {"1": 4, "2": 6, "3": 8}[line[1]]
        address, data = int(line[4 : 4 + digits], 16), bytes.fromhex(line[4 + digits : -2])
        cells.update(enumerate(data, start=address))
    image = bytes(cells.get(address, 0xFF) for address in range(min(cells), max(cells) + 1))
    if args.dump and args.fault != "no-dump":
        held = "".join(f"{line}\n" for line in lines)
        args.dump.write_text(held if args.fault != "wrong-flash" else s3(min(cells), b"\x00" * 16))
    if args.json:
        outcome = "failed" if args.fault == "refuses" else "updated"
        args.json.write_text(json.dumps({"outcome": outcome, "image_crc": f"{zlib.crc32(image):08x}"}))


def update(link: socket.socket, acks_permission: bool, fault: str | None) -> list[str]:
    """Take part in one session; the records that went to flash."""
    lines: list[str] = []
    assert link.recv(3) == b"@4#"
    if acks_permission:
        link.sendall(b"@")
    while (frame := read_frame(link)).startswith("S"):
        if fault == "drops" and len(lines) == 3:
            fault = None
        else:
            lines.append(frame)
        if fault == "silent" and len(lines) == 3:
            time.sleep(60)
        link.sendall({"double-ack": b"@@", "nack": b"?"}.get(fault or "", b"@"))
    link.sendall(b"@")
    link.recv(1)
    return lines


def read_frame(link: socket.socket) -> str:
    """A record, as long as its count says, or the end frame."""
    frame = link.recv(4, socket.MSG_WAITALL).decode()
    if frame.startswith("S"):
        return frame + link.recv(2 * int(frame[2:], 16), socket.MSG_WAITALL).decode()
    while not frame.endswith("##"):
        frame += link.recv(1).decode()
    return frame


def s3(address: int, data: bytes) -> str:
    """One S3 record."""
    body = bytes([len(data) + 5]) + address.to_bytes(4) + data
    return f"S3{body.hex().upper()}{0xFF - sum(body) % 256:02X}\n"


if __name__ == "__main__":
    main()
