"""What every HTML report is made of: no scripts, nothing fetched, light and dark, readable on a phone.

Text in, text out. Whatever is handed in as text is escaped here; what is handed in as HTML is taken as it is.
"""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

MIB: Final = 1024 * 1024


def document(headline: str, sections: Sequence[str], *, well: bool) -> str:
    """The page as HTML text: a headline that says whether all went well, and sections (HTML)."""
    style = "well" if well else "ill"
    return (
        "<!DOCTYPE html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>k60-fota: {escape(headline)}</title><style>{STYLE}</style></head>\n"
        f'<body><header class="{style}"><p>k60-fota</p><h1>{escape(headline)}</h1></header>\n'
        f"<main>\n{chr(10).join(sections)}\n</main></body></html>\n"
    )


def section(title: str, content: str) -> str:
    """A box with a title (text) and content (HTML)."""
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def table(rows: Iterable[tuple[str, str]]) -> str:
    """Names and values (text), one row each."""
    lines = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return f"<table>{lines}</table>"


def mib(size: int) -> str:
    """Bytes in MiB."""
    return f"{size / MIB:,.1f} MiB"


def memory(size: int) -> str:
    """The most memory that a process held, in bytes; 0 where the system does not say."""
    return f"{size / MIB:,.0f} MiB at most" if size else "not known on this system"


STYLE: Final = """
:root { --paper: #fff; --ground: #f3f4f6; --ink: #1b1f24; --faint: #59636e; --line: #d5dae0;
  --updated: #2f9e5b; --refused: #d98e04; --failed: #d1334a; --connected: #4a8fe0; --waiting: #cfd5dc;
  --rate: #7a2fb5; --boot: #8a6d3b; --blank: #e4e8ec; --well: #1d7a43; --ill: #b3243a; }
@media (prefers-color-scheme: dark) { :root { --paper: #1a1e24; --ground: #101317; --ink: #e6e9ed; --faint: #9aa5b1;
  --line: #353c45; --updated: #3fae6b; --refused: #e0a030; --failed: #e5566a; --connected: #4a86cc;
  --waiting: #48515c; --rate: #d59bff; --boot: #a98a55; --blank: #2c333b; --well: #17663a; --ill: #96203a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
header { padding: 1.2rem max(1rem, calc((100% - 1120px) / 2)); color: #fff; }
header.well { background: var(--well); }
header.ill { background: var(--ill); }
header p { margin: 0; opacity: .85; }
h1 { margin: .1rem 0 0; font-size: clamp(1.25rem, 4.5vw, 1.9rem); line-height: 1.2; }
h2 { margin: 0 0 .7rem; font-size: 1.05rem; }
h3 { margin: 1rem 0 .3rem; font-size: .95rem; }
main { max-width: 1152px; margin: 0 auto; padding: 1rem; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); }
section { min-width: 0; padding: 1rem; background: var(--paper); border: 1px solid var(--line); border-radius: 8px; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { padding-right: 1rem; font-weight: normal; color: var(--faint); white-space: nowrap; }
td { overflow-wrap: anywhere; }
tr:last-child > * { border-bottom: 0; }
.missed { color: var(--failed); font-weight: 600; }
code { font: .9em ui-monospace, monospace; overflow-wrap: anywhere; }
details { margin-top: .8rem; }
summary { cursor: pointer; color: var(--faint); }
table + table { margin-top: 1rem; }
svg { display: block; width: 100%; height: auto; margin-top: .3rem; }
svg text { font-size: 13px; fill: var(--faint); }
@media (max-width: 560px) { svg text { font-size: 16px; } }
#flash { margin-top: .8rem; }
#flash text { font: 12px ui-monospace, monospace; }
.axis { stroke: var(--faint); }
.grid { stroke: var(--ink); opacity: .13; }
.mark { stroke: var(--rate); stroke-width: 1.5; stroke-dasharray: 4 3; }
.updated, .programmed { fill: var(--updated); background: var(--updated); }
.refused { fill: var(--refused); background: var(--refused); }
.failed { fill: var(--failed); background: var(--failed); }
.connected { fill: var(--connected); background: var(--connected); }
.waiting { fill: var(--waiting); background: var(--waiting); }
.boot { fill: var(--boot); background: var(--boot); }
.blank { fill: var(--blank); background: var(--blank); }
.rate { stroke: var(--rate); background: var(--rate); fill: none; stroke-width: 2; stroke-linejoin: round; }
.pace { stroke: var(--updated); background: var(--updated); fill: none; stroke-width: 2; stroke-linejoin: round; }
.trouble { stroke: var(--failed); background: var(--failed); fill: none; stroke-width: 2; stroke-dasharray: 5 3; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; margin: .6rem 0 0; padding: 0; list-style: none;
  color: var(--faint); font-size: .9rem; }
.key { display: inline-block; width: .75em; height: .75em; margin-right: .4em; border-radius: 2px; }
.key.rate, .key.pace, .key.trouble { height: 3px; vertical-align: middle; }
"""
"""Colours by what they mean; both schemes keep text above a contrast of 4.5."""
