"""One HTML page that needs nothing else: no network, no script, no font; light or dark as the reader has it.

All text comes from corpora, that is from anybody: what goes into a page goes through `text`, and the page forbids
itself everything but its own styles.
"""

import re
from collections.abc import Iterable, Sequence
from html import escape

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"

_CSS = """
:root { color-scheme: light dark; --ground: #ffffff; --ink: #1d2430; --quiet: #5b6675; --line: #d5dae1;
  --panel: #f5f7f9; --link: #0b5cad;
  --series-0: #2a6fbb; --series-1: #c2551d; --series-2: #2e8540; --series-3: #8a4fbf;
  --series-4: #a8791a; --series-5: #0f8a8a; --series-6: #b8336a; --series-7: #6b7280;
  --for-2: #9fd3a8; --for-1: #d3edd7; --against-1: #fbdcc9; --against-2: #f4b48e; }
@media (prefers-color-scheme: dark) { :root { --ground: #14181f; --ink: #e4e8ee; --quiet: #9aa5b4;
  --line: #39424f; --panel: #1c222b; --link: #7db7f5;
  --series-0: #6fb1f2; --series-1: #f0915a; --series-2: #74c786; --series-3: #c39bee;
  --series-4: #dcb45e; --series-5: #5cc9c9; --series-6: #ee86b1; --series-7: #a9b2bf;
  --for-2: #1f6b33; --for-1: #1d4127; --against-1: #533222; --against-2: #8a4519; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; background: var(--ground); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 0; }
.scroll + h3, .row + h3 { margin-top: 1.5rem; }
p { margin: .5rem 0; }
.quiet { color: var(--quiet); font-size: .875rem; }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1rem;
  align-items: start; }
.row > * { min-width: 0; }
.scroll { overflow-x: auto; margin-top: .5rem; }
figure { margin: 0; }
svg { display: block; width: 100%; max-width: 32rem; height: auto; margin: 0 auto; }
svg text { font-family: system-ui, sans-serif; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem .25rem 0; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--quiet); }
th:first-child, td:first-child { text-align: left; }
/* On a phone more columns fit, and a shadow at the edge says that there are more. */
@media (max-width: 30rem) { table { font-size: .75rem; } th, td { padding-right: .5rem; }
  .scroll { background: linear-gradient(to right, var(--ground) 2rem, transparent) local,
    linear-gradient(to left, var(--ground) 2rem, transparent) right local,
    linear-gradient(to right, var(--line), transparent .75rem),
    linear-gradient(to left, var(--line), transparent .75rem) right; background-repeat: no-repeat; } }
article { background: var(--panel); border: 1px solid var(--line); border-radius: .5rem; padding: .75rem 1rem; }
article + article { margin-top: 1rem; }
.said { white-space: pre-wrap; margin: .5rem 0; }
.prefix { font-weight: 600; text-decoration: underline; text-decoration-color: var(--series-1);
  text-decoration-thickness: 2px; text-underline-offset: 3px; }
dl { margin: .5rem 0 0; font-size: .8125rem; color: var(--quiet); display: grid; grid-template-columns: max-content 1fr;
  gap: 0 .75rem; }
dd { margin: 0; min-width: 0; }
.for-2 { background: var(--for-2); } .for-1 { background: var(--for-1); }
.against-1 { background: var(--against-1); } .against-2 { background: var(--against-2); }
.tokens { white-space: pre-wrap; line-height: 1.9; }
.tokens span { border-radius: .2rem; padding: .1rem 0; }
.key span { padding: .1rem .4rem; margin-right: .4rem; border-radius: .2rem; white-space: nowrap; }
td.token { white-space: pre; font-family: ui-monospace, monospace; }
"""

_FORBIDDEN = re.compile(r"[^\t\n -\ud7ff\ue000-\U0010ffff]|[\x7f-\x9f\ufffe\uffff]")
_DIRECTIONS = re.compile(r"[\u202a-\u202e\u2066-\u2069]")


def text(value: object) -> str:
    """Anything as text for an element or an attribute; what HTML does not allow, or would turn lines around, is �."""
    return escape(_DIRECTIONS.sub("\ufffd", _FORBIDDEN.sub("\ufffd", str(value))), quote=True)


def page(title: str, body: Iterable[str]) -> str:
    """A whole page.

    Args:
        title: plain text.
        body: HTML, finished.
    """
    parts = "\n".join(body)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{text(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n{parts}\n</body>\n</html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A heading and what stands below it."""
    return f"<section>\n<h2>{text(title)}</h2>\n" + "\n".join(parts) + "\n</section>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls by itself where the screen is narrow."""
    top = "".join(f'<th scope="col">{text(cell)}</th>' for cell in head)
    lines = "\n".join(
        "<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{lines}\n</tbody>\n</table></div>'


def side_by_side(parts: Iterable[str]) -> str:
    """Columns where there is room, one below the other elsewhere."""
    return '<div class="row">\n' + "\n".join(f"<div>{part}</div>" for part in parts) + "\n</div>"


def quiet(value: str) -> str:
    """A remark."""
    return f'<p class="quiet">{text(value)}</p>'


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and values."""
    return "<dl>" + "".join(f"<dt>{text(k)}</dt><dd>{text(v)}</dd>" for k, v in pairs) + "</dl>"
