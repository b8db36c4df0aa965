"""What pages have in common: the document, its style, tables, pictures and numbers, as HTML.

A page is one file: no link to elsewhere, so that it can be mailed and opened without a network.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STYLE = """
:root { color-scheme: light }
* { box-sizing: border-box }
[hidden] { display: none }
body { font: 16px/1.5 system-ui, sans-serif; color: #1b1b1b; background: #fff;
  max-width: 1120px; margin: 0 auto; padding: 1em 16px 4em }
h1 { font-size: 1.6em; line-height: 1.2; margin: .6em 0 .3em; overflow-wrap: anywhere }
h2 { font-size: 1.2em; margin: 2em 0 .5em; padding-top: .6em; border-top: 1px solid #ddd }
h3 { font-size: 1em; margin: 0 0 .4em }
p, li, dd { overflow-wrap: anywhere }
ul { padding-left: 1.2em }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: 15px }
th, td { padding: .25em 1.2em .25em 0; border-bottom: 1px solid #ddd; text-align: left;
  vertical-align: top }
th { font-weight: 600; white-space: nowrap }
.words td + td { overflow-wrap: anywhere; min-width: 7em }
.numbers td, .numbers th { white-space: nowrap }
.scores td:last-child { white-space: normal; min-width: 12em }
.numbers data { font-variant-numeric: tabular-nums }
figure { margin: 0 }
figcaption { font-size: 14px; margin: .2em 0; overflow-wrap: anywhere }
figcaption span { display: inline-block; margin-left: .8em }
img { display: block; max-width: 100%; height: auto; border: 1px solid #ddd; border-radius: 4px }
svg { display: block; width: 100%; max-width: 800px; height: auto }
svg text { font: 12px system-ui, sans-serif; fill: #333 }
i { display: inline-block; width: 1em; height: .7em; margin-right: .35em }
.charts, .pair, .tiles { display: grid; gap: 1.4em 1.2em }
.charts { grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)) }
.pair { grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)) }
.tiles { grid-template-columns: repeat(auto-fit, minmax(135px, 1fr)); gap: .6em; margin: 0 }
.tiles div { background: #f2f5f8; border-left: 4px solid #0072b2; border-radius: 4px;
  padding: .5em .8em }
dt { font-size: 13px; color: #444 }
dd { margin: 0; font-size: 15px; font-weight: 600 }
.status { font-size: 1.1em; margin: 0 0 1em }
.controls { display: flex; gap: .6em; align-items: center; margin: .5em 0 }
.controls[hidden] { display: none }
.controls button { font: inherit; width: 2.6em; height: 2.4em; border: 1px solid #767676;
  border-radius: 4px; background: #f2f5f8; color: #1b1b1b }
.controls input { flex: 1; min-width: 0; height: 2em; accent-color: #0072b2 }
code, pre { font: 14px/1.5 ui-monospace, monospace }
pre { background: #f2f5f8; border-radius: 4px; padding: .7em; margin: .5em 0;
  white-space: pre-wrap; overflow-wrap: anywhere; user-select: all }
summary { cursor: pointer; padding: .4em 0 }
"""


def document(title: str, body: Sequence[str], script: str = "") -> str:
    """A page that loads nothing and runs no script but its own, whatever its texts hold."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = f"script-src 'sha256-{digest}'; " if script else ""
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; {allowed}"
    page = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}base-uri \'none\'">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<link rel="icon" href="data:,"><title>{text(title)}</title>',
        f"<style>{STYLE}</style></head><body><h1>{text(title)}</h1>",
        *body,
        f"<script>{script}</script>" if script else "",
        "</body></html>\n",
    ]
    return "\n".join(page).encode(errors="replace").decode()  # a path's bytes need not be text


def table(heads: Sequence[str], lines: Sequence[Sequence[str]], kind: str = "numbers") -> str:
    """A table that scrolls by itself where it is too wide; cells are HTML, heads are text.

    `kind` is 'words', or 'numbers', whose cells are not broken; of 'numbers scores' the last are.
    """
    rows = [f"<tr>{''.join(f'<th>{text(head)}</th>' for head in heads)}</tr>"]
    rows += [f"<tr>{''.join(f'<td>{cell}</td>' for cell in line)}</tr>" for line in lines]
    return f'<div class="wide"><table class="{kind}">{"".join(rows)}</table></div>'


def image(path: Path, words: str) -> str:
    """A PNG inside the page, and what it shows."""
    encoded = base64.b64encode(path.read_bytes()).decode()
    return f'<img src="data:image/png;base64,{encoded}" alt="{text(words)}">'


def text(value: Any) -> str:
    """Anything as HTML that shows it."""
    return html.escape(str(value))


def number(value: float | None) -> str:
    """Four digits to read, all of them in the element's value."""
    return "-" if value is None else f'<data value="{value!r}">{value:.4g}</data>'
