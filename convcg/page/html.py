"""The elements of a page: well-formed HTML with its own style, no scripts, nothing from elsewhere."""

from collections.abc import Container, Iterable, Sequence
from html import escape

_STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --text: #1c2430; --faint: #5a6573; --line: #d5dae1; --plain: #3b6fd4;
  --mark: #b4442f; --impression: #7b8794; --click: #3b6fd4; --repin: #8e4ec6; --add_to_cart: #b86e00;
  --checkout: #13804c;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #12161c; --card: #1b2129; --text: #e6eaf0; --faint: #a3adba; --line: #39424e; --plain: #7aa5f8;
    --mark: #f08a72; --impression: #98a3b0; --click: #7aa5f8; --repin: #c49af2; --add_to_cart: #efb04f;
    --checkout: #57cf93;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; padding: 2rem 1rem 4rem; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
}
main { max-width: 1240px; margin: 0 auto; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 .2rem; }
h3 { font-size: 1rem; line-height: 1.35; margin: 0 0 .4rem; }
p { margin: 0 0 .8rem; max-width: 75ch; }
.faint, caption { color: var(--faint); }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(160px, 1fr)); gap: .8rem; margin: 1.4rem 0; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(370px, 100%), 1fr)); gap: .8rem; }
.beside { display: grid; grid-template-columns: minmax(min(370px, 100%), 2fr) minmax(0, 5fr); gap: .8rem; }
.beside + *, .box + .box { margin-top: .8rem; }
.beside table { font-size: .88rem; }
@media (max-width: 1000px) { .beside { grid-template-columns: minmax(0, 1fr); } }
.tile, .plot, .box {
  background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .9rem 1rem; min-width: 0;
}
.tile dt { color: var(--faint); font-size: .85rem; }
.tile dd { margin: 0; font-size: 1.2rem; font-weight: 650; font-variant-numeric: tabular-nums; }
.plot { margin: 0; display: flex; flex-direction: column; }
.plot svg { width: 100%; height: auto; display: block; }
.plot .reading { font-size: .88rem; color: var(--faint); margin: .5rem 0 .3rem; }
.plot .nothing { margin: auto 0; padding: 1.5rem 0; text-align: center; color: var(--faint); }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: .1rem .9rem; padding: 0; margin: 0; }
.legend li { font-size: .85rem; }
.legend i { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .4em; }
.wide { overflow-x: auto; }
details { margin-top: auto; font-size: .88rem; }
details .wide { max-height: 22rem; overflow-y: auto; }
summary { cursor: pointer; color: var(--faint); padding: .25rem 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td, time { white-space: nowrap; }
.box td:first-child { font-weight: 600; }
td.text { white-space: normal; min-width: 13rem; }
table + p, .wide + p { margin: .8rem 0 0; }
tr:last-child td { border-bottom: 0; }
tr.marked td { background: color-mix(in srgb, var(--checkout) 16%, transparent); font-weight: 600; }
th { font-weight: 600; white-space: nowrap; color: var(--faint); font-size: .85rem; }
.number { text-align: right; white-space: nowrap; }
.span { display: flex; gap: 2px; margin: .3rem 0 .8rem; height: 1.4rem; border-radius: 6px; overflow: hidden; }
.span div { min-width: 3px; }
.span .between { background: var(--line); } .span .train { background: var(--plain); }
.span .validation { background: var(--add_to_cart); } .span .test { background: var(--mark); }
i.between { background: var(--line); } i.train { background: var(--plain); }
i.validation { background: var(--add_to_cart); } i.test { background: var(--mark); }
.gap { height: .8rem; }
pre { overflow-x: auto; font-size: .82rem; }
@media (max-width: 600px) { /* what a row means goes below its figures */
  .box tr { display: flex; flex-wrap: wrap; border-bottom: 1px solid var(--line); }
  .box :is(th, td) { flex: 1 1 0; border: 0; white-space: normal; padding: .3rem .5rem .3rem 0; font-size: .88rem; }
  .box td.text { flex-basis: 100%; padding-top: 0; color: var(--faint); }
  .box th.text { display: none; }
}
ul.notes { padding-left: 1.2rem; margin: .2rem 0; } ul.notes li { overflow-wrap: anywhere; max-width: 90ch; }
"""


Row = Sequence[str | int | float]
#: Beyond this many characters a text is a sentence, which may wrap.
_SHORT = 24
_MARKED = ' class="marked"'


def page(title: str, body: Iterable[str]) -> str:
    """The whole page; `title` is text, `body` elements."""
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8"/>',
            '<meta name="viewport" content="width=device-width, initial-scale=1"/>',
            f"<title>{escape(title)}</title>",
            f"<style>{_STYLE}</style></head>",
            "<body><main>",
            *body,
            "</main></body></html>\n",
        ]
    )


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of text."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def section(title: str, said: str, content: Iterable[str]) -> str:
    """A heading, what is said of it, and elements."""
    return "\n".join([f"<section><h2>{escape(title)}</h2>", paragraph(said, "faint"), *content, "</section>"])


def tiles(named: Iterable[tuple[str, str]]) -> str:
    """Names and the few figures that come first."""
    each = [f'<div class="tile"><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>' for name, value in named]
    return "\n".join(['<dl class="tiles">', *each, "</dl>"])


def box(*content: str) -> str:
    """Elements on a card of their own."""
    return "\n".join(['<div class="box">', *content, "</div>"])


def table(header: Sequence[str], rows: Sequence[Row], *, marked: Container[int] = ()) -> str:
    """A table that scrolls where it is wider than the screen; numbers are aligned to the right, sentences may wrap.

    `marked` are the places of rows that stand out.
    """
    columns = zip(*rows, strict=True) if rows else ((name,) for name in header)
    kinds = [_kind(column) for column in columns]
    heads = [f'<th scope="col"{kind}>{escape(name)}</th>' for name, kind in zip(header, kinds, strict=True)]
    lines = ["".join(f"<td{kind}>{_shown(value)}</td>" for value, kind in zip(row, kinds, strict=True)) for row in rows]
    return "\n".join(
        [
            f'<div class="wide"><table><thead><tr>{"".join(heads)}</tr></thead><tbody>',
            *(f"<tr{_MARKED if at in marked else ''}>{line}</tr>" for at, line in enumerate(lines)),
            "</tbody></table></div>",
        ]
    )


def _kind(column: Row) -> str:
    texts = [value for value in column if isinstance(value, str)]
    if len(texts) < len(column):
        return ' class="number"'
    return ' class="text"' if max(map(len, texts)) > _SHORT else ""


def _shown(value: str | float) -> str:
    return escape(value) if isinstance(value, str) else number(value)


def number(value: float) -> str:
    """A number with thousands apart."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"


def per_cent(share: float) -> str:
    """A share in [0, 1], with two digits where it is small; the sign never begins a line."""
    hundredfold = 100 * share
    digits = f"{hundredfold:.0f}" if hundredfold >= 9.95 or hundredfold == 0 else f"{hundredfold:.2g}"
    return f"{digits}\N{NO-BREAK SPACE}%"


def bullets(texts: Iterable[str]) -> str:
    """A list of sentences."""
    return "\n".join(['<ul class="notes">', *(f"<li>{escape(text)}</li>" for text in texts), "</ul>"])


def legend(colours: Iterable[tuple[str, str]]) -> str:
    """Colours (names of the style) and what they stand for."""
    each = [f'<li><i style="background: var(--{colour})"></i>{escape(name)}</li>' for colour, name in colours]
    return "\n".join(['<ul class="legend">', *each, "</ul>"])


def plot(title: str, svg: str, reading: str, numbers: str, key: str = "") -> str:
    """A plot (SVG) under a title that says what is seen, with help to read it and the numbers behind it."""
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)
    return "\n".join(
        [
            f'<figure class="plot"><h3>{escape(title)}</h3>',
            key,
            svg,
            f'<figcaption class="reading">{escape(reading)}</figcaption>',
            f"<details><summary>the numbers</summary>{numbers}</details></figure>",
        ]
    )


def no_plot(title: str, why: str) -> str:
    """What stands in the place of a plot without data."""
    return f'<figure class="plot"><h3>{escape(title)}</h3><p class="nothing">{escape(why)}</p></figure>'
