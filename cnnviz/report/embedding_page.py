"""index.html of an embedding: a scatter that shows the picture under the pointer.

The page has no script: the choice between the projections and between the colours are radio buttons that the style
reads, and the card of a point is an element of its own that shows while the pointer or the keyboard's focus is on the
point. Pictures are the thumbnails beside the page, loaded when their card first shows. Positions are written as
numbers, everything else is escaped as in the gallery.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from cnnviz.report.gallery import STYLE, Gallery
from cnnviz.report.markup import link as _link
from cnnviz.report.markup import text as _text

_POLICY = (
    "default-src 'none'; img-src 'self' file:; style-src 'self' file: 'unsafe-inline'; "
    "script-src 'none'; base-uri 'none'; form-action 'none'"
)
_OWN = """
main { display: block; }
.choice { display: inline-block; padding: .25rem .8rem; margin: 0 .3rem .8rem 0; border: 1px solid var(--line);
  border-radius: 99px; background: var(--card); cursor: pointer; font-size: .86rem; }
.pick { position: absolute; opacity: 0; pointer-events: none; }
.pick:checked + .choice { background: var(--fill); border-color: var(--fill); color: var(--card); }
.pick:focus-visible + .choice { outline: 2px solid var(--ink); outline-offset: 2px; }
.gap { display: inline-block; width: 1.5rem; }
.stage { display: flex; flex-wrap: wrap; gap: 1.5rem 2rem; align-items: flex-start; }
.plot { position: relative; flex: none; width: min(100%, 46rem, 92vh); aspect-ratio: 1; background: var(--card);
  border: 1px solid var(--line); border-radius: 10px; box-shadow: var(--shade); }
.plot > img { display: none; position: absolute; inset: 0; width: 100%; height: 100%; border-radius: 9px; }
.p { position: absolute; left: calc(var(--x) * 1%); top: calc(var(--y) * 1%); width: 0; height: 0; color: inherit;
  text-decoration: none; outline: none; --c: #a3a8ae; }
.p::before { content: ""; position: absolute; width: var(--d); height: var(--d); left: calc(var(--d) / -2);
  top: calc(var(--d) / -2); border-radius: 50%; background: var(--c); box-shadow: 0 0 0 1px var(--card); }
.p:hover, .p:focus-visible { z-index: 3; }
.p:hover::before, .p:focus-visible::before { box-shadow: 0 0 0 2px var(--card), 0 0 0 4px var(--ink); }
.card { display: none; position: absolute; width: 15rem; padding: .6rem; pointer-events: none; background: var(--card);
  border: 1px solid var(--line); border-radius: 8px; box-shadow: 0 4px 18px rgb(0 0 0 / .28); font-size: .8rem;
  line-height: 1.35; --up: clamp(0, (var(--y) - 50) * 1000, 1);
  transform: translate(calc(var(--x) * -1%), calc(var(--up) * -100% + 1.1rem - var(--up) * 2.2rem)); }
.p:hover .card, .p:focus-visible .card { display: block; }
.card img { display: block; border-radius: 4px; }
.card > img { width: 100%; max-height: 10rem; object-fit: contain; margin: 0 auto .4rem; }
.card b { display: block; overflow-wrap: anywhere; } .card i { font-style: normal; color: var(--soft); display: block; }
.near { display: flex; gap: 3px; margin-top: .4rem; }
.near img { width: calc((100% - 12px) / 5); aspect-ratio: 1; object-fit: cover; }
.legend { flex: 1 1 14rem; min-width: 0; order: 1; }
.legend ul { list-style: none; margin: 0 0 1.2rem; padding: 0; columns: 12rem; font-size: .86rem; }
.legend li { padding: .1rem .3rem; border-radius: 4px; break-inside: avoid; overflow-wrap: anywhere; }
.legend li:hover { background: var(--line); } .legend small { color: var(--soft); }
.legend s { display: inline-block; width: .7rem; height: .7rem; border-radius: 50%; margin-right: .5rem;
  background: var(--c, #a3a8ae); text-decoration: none; }
.legend h2 { margin: 0 0 .5rem; } .legend p { font-size: .86rem; color: var(--soft); }
.legend p a { color: var(--fill); margin-right: .8rem; }
"""


@dataclass(frozen=True)
class Key:
    """One way of colouring: what it is called, and its categories as (name, count, colour ``#rrggbb``, diamond)."""

    title: str
    entries: Sequence[tuple[str, int, str, bool]]
    rest: str


@dataclass(frozen=True)
class Point:
    """An image of the page.

    Attributes:
        name: Its path.
        thumbnail: File beside the page.
        facts: Lines of text below its name.
        places: For each projection (x, y), 0 to 1, y downwards.
        categories: For each key its category, -1 for the rest.
        near: Thumbnails of its neighbours, nearest first.
    """

    name: str
    thumbnail: str
    facts: Sequence[str]
    places: Sequence[tuple[float, float]]
    categories: Sequence[int]
    near: Sequence[str]


@dataclass(frozen=True)
class Plot:
    """What the page shows.

    Attributes:
        head: Title, command, model and summary, as on the gallery.
        views: Names of the projections.
        grid: Number of the projection that is the grid of thumbnails, with its picture and (rows, columns).
        keys: The ways of colouring.
        links: (file, text) of the other files of the run.
        note: A sentence below the legend.
        diameter: Of a point, in pixels.
    """

    head: Gallery
    views: Sequence[str]
    grid: tuple[int, str, tuple[int, int]] | None
    keys: Sequence[Key]
    links: Sequence[tuple[str, str]]
    note: str
    diameter: float


def page(plot: Plot, points: Iterable[Point]) -> Iterator[bytes]:
    """The whole page, piece by piece."""
    yield _encoded(_begin(plot))
    for point in points:
        yield _encoded(_point(point))
    yield _encoded("</div>\n</div>\n</main>\n</body>\n</html>\n")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _begin(plot: Plot) -> str:
    head = plot.head
    pairs = "".join(f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>\n" for name, value in head.summary)
    policy = _POLICY.replace("'", "&#x27;")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{_text(head.title)}</title>\n"
        f'<link rel="stylesheet" href="{STYLE}">\n'
        f"<style>{_OWN}{_rules(plot)}</style>\n</head>\n<body>\n<header>\n"
        f"<h1>{_text(head.title)}</h1>\n<p><code>{_text(head.command)}</code><br>{_text(head.model)}</p>\n"
        f'<dl class="summary">\n{pairs}</dl>\n</header>\n<main>\n'
        + _choices("v", plot.views)
        + ('<span class="gap"></span>\n' + _choices("k", [key.title for key in plot.keys]) if plot.keys else "")
        + f'<div class="stage">\n{_aside(plot)}<div class="plot" style="--d:{plot.diameter:.1f}px">\n'
        + (f'<img src="{_link(plot.grid[1])}" loading="lazy" alt="">\n' if plot.grid else "")
    )


def _choices(kind: str, names: Sequence[str]) -> str:
    return "".join(
        f'<input class="pick" type="radio" name="{kind}" id="{kind}{place}"{" checked" if place == 0 else ""}>'
        f'<label class="choice" for="{kind}{place}">{_text(name)}</label>\n'
        for place, name in enumerate(names)
    )


def _rules(plot: Plot) -> str:
    """Positions by the chosen projection, colours by the chosen key, and what the pointer on the legend picks out."""
    rules = [f"#v{k}:checked ~ .stage .p {{ --x: var(--x{k}); --y: var(--y{k}); }}" for k in range(len(plot.views))]
    if plot.grid is not None:
        place, _, (rows, columns) = plot.grid
        at = f"#v{place}:checked ~ .stage .p"
        rules += [
            f"#v{place}:checked ~ .stage .plot > img {{ display: block; }}",
            f"#v{place}:checked ~ .stage .plot {{ aspect-ratio: {columns} / {rows}; }}",
            f"{at} {{ width: {100 / columns:.4f}%; height: {100 / rows:.4f}%; margin: 0; "
            "transform: translate(-50%, -50%); }",
            f"{at}::before {{ inset: 0; width: auto; height: auto; border-radius: 0; rotate: none; scale: none; "
            "background: none; box-shadow: none; }",
            f"{at}:hover::before, {at}:focus-visible::before {{ box-shadow: inset 0 0 0 3px var(--c); }}",
            f"{at} .card {{ left: 50%; top: calc(100% - var(--up) * 100%); }}",
        ]
    for k, key in enumerate(plot.keys):
        for place, (_, _, colour, diamond) in enumerate(key.entries):
            rules.append(f"#k{k}:checked ~ .stage .k{k}-{place} {{ --c: {colour}; }}")
            if diamond:
                shown = f"#k{k}:checked ~ .stage .k{k}-{place}"
                rules.append(f"{shown}::before, {shown} s {{ border-radius: 0; rotate: 45deg; scale: .85; }}")
        rules.append(f"#k{k}:not(:checked) ~ .stage .legend .key{k} {{ display: none; }}")
        for place in range(-1, len(key.entries)):
            name = f"k{k}-{place}"
            rules.append(f".legend:has(.{name}:hover) ~ .plot .p:not(.{name}) {{ opacity: .07; }}")
    return "\n".join(rules) + "\n"


def _point(point: Point) -> str:
    places = ";".join(f"--x{k}:{100 * x:.2f};--y{k}:{100 * y:.2f}" for k, (x, y) in enumerate(point.places))
    kinds = "".join(f" k{k}-{category}" for k, category in enumerate(point.categories))
    facts = "".join(f"<i>{_text(fact)}</i>" for fact in point.facts)
    near = "".join(f'<img src="{_link(name)}" loading="lazy" alt="">' for name in point.near[:5])
    link = _link(point.thumbnail)
    return (
        f'<a class="p{kinds}" href="{link}" style="{places}"><span class="card">'
        f'<img src="{link}" loading="lazy" alt="">'
        f"<b>{_text(point.name)}</b>{facts}" + (f'<span class="near">{near}</span>' if near else "") + "</span></a>\n"
    )


def _aside(plot: Plot) -> str:
    # Before the plot, though it stands beside it: so that a style can lead from the entry under the pointer to the
    # points without looking at all points whenever the pointer moves.
    links = "".join(f'<a href="{_link(file)}">{_text(text)}</a>' for file, text in plot.links)
    keys = "".join(_legend(k, key) for k, key in enumerate(plot.keys))
    return f'<div class="legend">\n{keys}<p>{_text(plot.note)}</p>\n<p>{links}</p>\n</div>\n'


def _legend(place: int, key: Key) -> str:
    lines = "".join(
        f'<li class="k{place}-{k}"><s></s>{_text(name)} <small>{count}</small></li>\n'
        for k, (name, count, _, _) in enumerate(key.entries)
    )
    lines += f'<li class="k{place}--1"><s></s>{_text(key.rest)}</li>\n' if key.rest else ""
    return f'<div class="key{place}"><h2>{_text(key.title)}</h2>\n<ul>\n{lines}</ul>\n</div>\n'
