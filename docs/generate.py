"""Writes what the documentation takes from the code.

    python docs/generate.py            write it anew
    python docs/generate.py --check    say what is not up to date; exit 1 when anything is not

`sessions.md`: the diagrams, from the transition tables of `fota_protocol`; the text around them is written by hand.
`SPEC.md`: the whole page, from the requirement catalogue and the marks of the cases.
`update-times.md` and its picture: tables and curves, from runs in virtual time.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Final

import update_times

from fota_conformance.catalogue import load
from fota_conformance.spec import render
from fota_protocol import device, server
from fota_protocol.transitions import mermaid

FOLDER: Final = Path(__file__).parent

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


def timed(page: str) -> tuple[str, str]:
    """The page of update times with its tables, and its picture; raises `ValueError` when it has no place for them."""
    begin, end = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"
    before, found, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise ValueError(f"expected a place for tables, between {begin.strip()!r} and {end.strip()!r}")
    lengths, handshakes = update_times.measure()
    return f"{before}{begin}{update_times.table(lengths, handshakes)}{end}{after}", update_times.chart(lengths)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    check: bool = parser.parse_args().check
    sessions, times = FOLDER / "sessions.md", FOLDER / "update-times.md"
    try:
        tables, picture = timed(times.read_text(encoding="utf-8"))
        pages = {
            sessions: drawn(sessions.read_text(encoding="utf-8")),
            FOLDER / "SPEC.md": render(load()),
            times: tables,
            FOLDER / "images" / "update-times.svg": picture,
        }
    except ValueError as error:
        print(f"docs: {error}", file=sys.stderr)
        return 2
    stale = [path for path, text in pages.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if check:
            print(f"{path.name} is stale: run python docs/generate.py", file=sys.stderr)
        else:
            path.write_text(pages[path], encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
