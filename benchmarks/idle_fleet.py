"""Devices that wait, in a process of their own, for `run.py`: prints one JSON line with what one of them holds.

    idle_fleet.py COUNT

They are connected and have said who they are, and the server never answers: this process is both, so what a socket
costs the kernel is in neither's memory, and what the server's end costs is a bare descriptor.
"""

import argparse
import asyncio
import gc
import json
import resource
import socket
from pathlib import Path

from fota_protocol.parts import DEFAULT_PART, part
from fota_simulator.report import Sample
from fota_simulator.swarm import DevicePlan, run_swarm
from fota_transport.loops import new_event_loop, raise_descriptor_limit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int)
    count: int = parser.parse_args().count
    raise_descriptor_limit()
    loop = new_event_loop()
    try:
        size = loop.run_until_complete(_idle(loop, count))
    finally:
        loop.close()
    print(json.dumps({"devices": count, "bytes_per_device": size}))


async def _idle(loop: asyncio.AbstractEventLoop, count: int) -> float:
    """Resident bytes that one of `count` waiting devices costs."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=65_535)
    listening.setblocking(False)
    accepted: list[int] = []

    def accept() -> None:
        accepted.append(listening.accept()[0].detach())

    loop.add_reader(listening, accept)
    stop = asyncio.Event()
    sizes: list[int] = []
    plans = [DevicePlan(f"{number:025d}", None, part(DEFAULT_PART)) for number in range(count)]
    before = _resident()

    def on_progress(sample: Sample) -> None:
        if sample.connected == count and not sizes:
            sizes.append(_resident())
            stop.set()

    await run_swarm(loop, "127.0.0.1", listening.getsockname()[1], plans, on_progress=on_progress, stop=stop)
    loop.remove_reader(listening)
    listening.close()
    return (sizes[0] - before) / count


def _resident() -> int:
    gc.collect()
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * resource.getpagesize()


if __name__ == "__main__":
    main()
