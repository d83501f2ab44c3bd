"""Our fleet in a process of its own, for `fota_bench.pairs`: prints one JSON line, as the C fleet does.

    fleet.py PORT COUNT FIRST_ID IMAGE.S19 [--acks-verdict]

The clock runs from the first connection to the last end frame that was accepted. Every flash is verified within it,
but for those that end last.
"""

import argparse
import json
import resource
import sys
from pathlib import Path

from fota_protocol.formats import load
from fota_protocol.parts import DEFAULT_PART, part
from fota_simulator.report import Sample
from fota_simulator.swarm import DevicePlan, run_swarm
from fota_transport.loops import new_event_loop, raise_descriptor_limit


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("first_id", type=int)
    parser.add_argument("image", type=Path)
    parser.add_argument("--acks-verdict", action="store_true")
    args = parser.parse_args()

    raise_descriptor_limit()
    image = load(args.image.read_bytes())
    plans = [
        DevicePlan(f"{args.first_id + number:025d}", image, part(DEFAULT_PART), acks_verdict=args.acks_verdict)
        for number in range(args.count)
    ]
    sizes = [resident_bytes()]
    under_way: list[int] = []

    def on_progress(sample: Sample) -> None:
        sizes.append(resident_bytes())
        under_way.append(sample.connected)

    usage_before = resource.getrusage(resource.RUSAGE_SELF)
    loop = new_event_loop()
    try:
        report, _ = loop.run_until_complete(run_swarm(loop, "127.0.0.1", args.port, plans, on_progress=on_progress))
    finally:
        loop.close()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    last = max(device.started_s + device.duration_s for device in report.devices)
    result = {
        "devices": report.count,
        "updated": report.verified,
        "records": report.records,
        "seconds": last - min(device.started_s for device in report.devices),
        "connect_seconds": 0.0,  # within `seconds`: devices begin as soon as they are connected
        "at_once": max([1, *under_way]),
        "user_seconds": usage.ru_utime - usage_before.ru_utime,
        "system_seconds": usage.ru_stime - usage_before.ru_stime,
        "rss_bytes": max(sizes) - sizes[0],
    }
    print(json.dumps(result))
    if report.verified != report.count:
        print(f"fleet: {report.verified} of {report.count} verified: {dict(report.failures)}", file=sys.stderr)
        return 1
    return 0


def resident_bytes() -> int:
    """What this process holds at this moment; the most it ever held would have the reading of the image in it."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * resource.getpagesize()


if __name__ == "__main__":
    sys.exit(main())
