"""Draws the diagrams of `docs/sessions.md` from the transition tables of `fota_protocol`.

    python docs/generate.py            draw them anew
    python docs/generate.py --check    say whether the page is up to date; exit 1 when it is not

Only what stands between the two comments of a session is written; the text around them is written by hand.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Final

from fota_protocol import device, server
from fota_protocol.transitions import mermaid

PAGE: Final = Path(__file__).with_name("sessions.md")

DIAGRAMS: Final = {
    "server": mermaid(server.TRANSITIONS, server.ServerState.IDENTIFYING),
    "device": mermaid(device.TRANSITIONS, device.DeviceState.IDLE),
}


def drawn(page: str) -> str:
    """The page with its diagrams as the tables have them; raises `ValueError` when it has no place for one."""
    for name, diagram in DIAGRAMS.items():
        begin, end = f"<!-- diagram: {name} -->\n", "<!-- end of diagram -->"
        place = re.compile(f"{begin}.*?{end}", re.DOTALL)
        if len(place.findall(page)) != 1:
            raise ValueError(f"expected one place for the diagram {name!r}, between {begin.strip()!r} and {end!r}")
        fence = f"{begin}```mermaid\n{diagram}```\n{end}"
        page = place.sub(lambda _, fence=fence: fence, page)  # type: ignore[misc]  # a function: no escapes are read
    return page


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    check: bool = parser.parse_args().check
    before = PAGE.read_text(encoding="utf-8")
    try:
        after = drawn(before)
    except ValueError as error:
        print(f"{PAGE.name}: {error}", file=sys.stderr)
        return 2
    if after == before:
        return 0
    if check:
        print(f"{PAGE.name} is stale: run python docs/generate.py", file=sys.stderr)
        return 1
    PAGE.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
