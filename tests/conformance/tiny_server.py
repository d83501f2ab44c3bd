"""A server of the protocol in a page, independent of everything else here, good unless a fault is asked for.

Standard library only; one client at a time; each of the three handshakes. It is the known good target, and with
`--fault` the known bad ones, by which the kit itself is judged.
"""

import argparse
import socket
import sys
import time
from pathlib import Path

FAULTS = {
    "order": "two records change places",
    "line-ending": "records end in CR LF",
    "first-image": "every session gets the first one's image",
    "never-ready": "it starts and never listens",
    "corrupt": "one record has another byte",
    "lower-case": "records are sent in lower case",
    "no-end": "no end frame",
    "dies": "the process ends in mid-update",
    "denies": "nobody is allowed to update",
    "early": "it does not wait for the ack of its permission",
}


def main() -> None:
    parser = argparse.ArgumentParser()
    for option in ("host", "registry", "firmware"):
        parser.add_argument(f"--{option}", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--handshake", choices=("immediate", "wait", "auto"), default="immediate")
    parser.add_argument("--ready-file", type=Path)
    parser.add_argument("--fault", choices=FAULTS)
    args = parser.parse_args()

    registry = [line.split(",") for line in Path(args.registry).read_text().splitlines()]
    entries = {mcuid: (Path(args.firmware, file), version) for mcuid, file, version in registry}
    if args.fault == "never-ready":
        time.sleep(60)
    with socket.create_server((args.host, args.port)) as listening:
        print("listening", flush=True)
        if args.ready_file:
            args.ready_file.touch()
        first = None
        while True:
            link, _ = listening.accept()
            link.settimeout(10)
            with link:
                mcuid = link.recv(1024)[1:26].decode()
                if mcuid not in entries or args.fault == "denies":
                    link.sendall(b"@0#")
                    continue
                path, version = entries[mcuid]
                first = first or path
                serve(link, first if args.fault == "first-image" else path, version, args.handshake, args.fault)


def serve(link: socket.socket, path: Path, version: str, handshake: str, fault: str | None) -> None:
    """One session from the permission on."""
    frames = [line.strip().encode() for line in path.read_text().splitlines() if line[:2] in ("S1", "S2", "S3")]
    if fault == "order":
        frames[2], frames[3] = frames[3], frames[2]
    if fault == "corrupt":
        frames[4] = frames[4][:-4] + b"5A" + frames[4][-2:]
    if fault == "lower-case":
        frames = [frame[:1] + frame[1:].lower() for frame in frames]
    if fault == "line-ending":
        frames = [frame + b"\r\n" for frame in frames]
    if fault != "no-end":
        frames.append(f"@{version}##".encode())
    link.sendall(b"@4#")
    if handshake == "auto":
        acked(link, 0.5)
    if handshake == "wait" and fault != "early" and not acked(link, 10):
        return
    for index, frame in enumerate(frames):
        if fault == "dies" and index == 5:
            print("out of memory", flush=True)
            sys.exit(7)
        link.sendall(frame)
        if link.recv(16) != b"@":
            return


def acked(link: socket.socket, within_s: float) -> bool:
    """Whether the device acks the permission."""
    link.settimeout(within_s)
    try:
        return link.recv(16) == b"@"
    except TimeoutError:
        return False
    finally:
        link.settimeout(10)


if __name__ == "__main__":
    main()
