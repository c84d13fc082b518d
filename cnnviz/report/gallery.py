"""index.html: the gallery of a run, written card by card while the run goes on.

``begin`` + one ``card`` a record + ``end``. The page needs nothing but the images beside it: its style is
inline, it has no script, and its Content-Security-Policy forbids any. Names and labels are untrusted: every
text is escaped, and what a page cannot show (control characters, bytes that are no UTF-8) is spelled out.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from cnnviz.report.markup import anchor
from cnnviz.report.markup import link as _link
from cnnviz.report.markup import percent as _percent
from cnnviz.report.markup import text as _text

_POLICY = (
    "default-src 'none'; img-src 'self' file:; style-src 'unsafe-inline'; "
    "script-src 'none'; base-uri 'none'; form-action 'none'"
)

_STYLE = """
:root { color-scheme: light dark; --page: #f5f6f7; --card: #fff; --ink: #1c1e22; --soft: #646a73;
  --line: #e1e4e8; --fill: #4269d0; --bad: #b42318;
  --shade: 0 1px 2px rgb(0 0 0 / .06), 0 2px 8px rgb(0 0 0 / .05); }
@media (prefers-color-scheme: dark) { :root { --page: #131417; --card: #1c1e22; --ink: #e8eaed;
  --soft: #9aa1ab; --line: #31353b; --fill: #7d9cf0; --bad: #ff8a7a; --shade: none; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 2rem clamp(1rem, 4vw, 3rem) 4rem; background: var(--page); color: var(--ink);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .4rem; letter-spacing: -.01em; overflow-wrap: anywhere; }
code { font: .87em/1.4 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
header p { margin: 0 0 1rem; color: var(--soft); }
.summary { display: flex; flex-wrap: wrap; gap: .6rem 2.2rem; margin: 0 0 1.6rem; padding: .9rem 0;
  border: solid var(--line); border-width: 1px 0; }
.summary dt { color: var(--soft); font-size: .8rem; }
.summary dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: 1.2rem;
  align-items: start; }
article { background: var(--card); border: 1px solid var(--line); border-radius: 10px; overflow: hidden;
  box-shadow: var(--shade); }
article.wide { grid-column: 1 / -1; } article.wide img { max-height: none; width: auto; max-width: 100%; margin: auto; }
article.failed { border-color: var(--bad); }
.text { padding: .8rem 1rem 1rem; }
h2 { font-size: .95rem; font-weight: 600; margin: 0; overflow-wrap: anywhere; }
.facts { margin: .1rem 0 0; color: var(--soft); font-size: .83rem; overflow-wrap: anywhere; }
.error { margin: .6rem 0 0; color: var(--bad); overflow-wrap: anywhere; white-space: pre-wrap; }
figure { margin: 0; border-bottom: 1px solid var(--line); }
figure > a { display: block; background: color-mix(in srgb, var(--ink) 6%, var(--card)); }
figure img { display: block; width: 100%; height: auto; max-height: 21rem; object-fit: contain; }
figcaption { padding: .7rem 1rem .8rem; font-size: .86rem; }
figcaption strong { font-weight: 600; overflow-wrap: anywhere; }
.scores { display: flex; flex-wrap: wrap; gap: .1rem 1rem; margin: .3rem 0 0; color: var(--soft);
  font-size: .8rem; font-variant-numeric: tabular-nums; }
.scores div { display: flex; gap: .35rem; } .scores dd { margin: 0; color: var(--ink); }
.links { margin: .35rem 0 0; font-size: .8rem; } .links a { color: var(--fill); margin-right: .8rem; }
.predictions { list-style: none; margin: .7rem 0 0; padding: 0; font-size: .86rem; }
.predictions li { display: grid; grid-template-columns: 1fr 4.5rem 3.6rem; gap: .6rem; align-items: center;
  padding: .12rem 0; }
.predictions span:first-child { overflow-wrap: anywhere; }
.bar { height: .45rem; border-radius: 3px; background: var(--line); overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--fill); }
.wrong { color: var(--bad); }
.scroll { overflow-x: auto; margin-top: .8rem; }
table { border-collapse: collapse; font-size: .83rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border: solid var(--line); border-width: 0 0 1px; text-align: right; }
th { font-weight: 500; color: var(--soft); } th:first-child { text-align: left; }
td a { color: var(--fill); } td summary { cursor: pointer; }
td small { display: block; color: var(--soft); white-space: nowrap; } .beside { color: var(--soft); }
tbody.beside { border-top: 2px solid var(--line); }
.confusion td { text-align: center; min-width: 2rem; border-right-width: 1px; }
.confusion thead th { vertical-align: bottom; }
.confusion thead span { writing-mode: vertical-rl; transform: rotate(180deg); max-height: 11rem; overflow: hidden; }
.confusion .right { background: color-mix(in srgb, var(--fill) 14%, transparent); }
.confusion .off { background: color-mix(in srgb, var(--bad) 14%, transparent); }
.number { text-align: right; color: var(--soft); font-variant-numeric: tabular-nums; }
"""

# Pictures that may stand for an explanation, the best first; those of several take the width of the page.
_KINDS = ("boxes", "gradient", "overlay", "panel", "heatmap")
_WIDE = ("boxes", "panel")
_TRUE = 5


@dataclass(frozen=True)
class Gallery:
    """What stands above the cards.

    Attributes:
        title: Of the page.
        command: The command, with the options that are not at their defaults.
        model: The model in words.
        summary: Pairs of name and value.
    """

    title: str
    command: str
    model: str
    summary: Sequence[tuple[str, str]]


def begin(gallery: Gallery) -> str:
    """The page up to the first card."""
    pairs = "".join(f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>\n" for name, value in gallery.summary)
    summary = f'<dl class="summary">\n{pairs}</dl>\n' if pairs else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(_POLICY)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{_text(gallery.title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<header>\n"
        f"<h1>{_text(gallery.title)}</h1>\n"
        f"<p><code>{_text(gallery.command)}</code><br>{_text(gallery.model)}</p>\n{summary}</header>\n<main>\n"
    )


def card(record: Mapping[str, object]) -> str:
    """One record of the run: its overlays with scores, its predictions, or its error.

    Fields that a record lacks are left out; it is otherwise as in records.jsonl.
    """
    error = record.get("error")
    explanations = _mappings(record.get("explanations"))
    figures = "".join(_picture(figure) for figure in _mappings(record.get("figures")))
    figures += _figures(explanations, record)
    wide = any(_shown(each)[0] in _WIDE for each in explanations)
    size = _size(record)
    facts = [f"{size[0]} × {size[1]}"] if size else []
    if record.get("outcome") is not None:
        facts.append(_outcome(record))
    elif record.get("label") is not None:
        facts.append(f"labelled {_text(record['label'])}")
    truth = record.get("truth")
    if isinstance(truth, Mapping) and truth.get("labels"):
        facts.append(f"marked {_text(', '.join(map(str, truth['labels'])))}")
    kind, reason = ' class="wide"' if wide else "", ""
    if error:
        kind = ' class="failed"'
        said = f"{error.get('type', '')}: {error.get('message', '')}" if isinstance(error, Mapping) else error
        reason = f'<p class="error">{_text(said)}</p>\n'
    named = f' id="{anchor(record["name"])}"' if "name" in record else ""
    return (
        f'<article{named}{kind}>\n{figures}<div class="text">\n'
        f"<h2>{_text(record.get('path', ''))}</h2>\n"
        + (f'<p class="facts">{" · ".join(facts)}</p>\n' if facts else "")
        + reason
        + _predictions(_mappings(record.get("predictions")))
        + "</div>\n</article>\n"
    )


def _outcome(record: Mapping[str, object]) -> str:
    """What an image shows, and what it is taken for where that is something else."""
    true = ", ".join(str(_name(each)) for each in _mappings(record.get("true_classes"))[:_TRUE])
    more = " …" if len(_mappings(record.get("true_classes"))) > _TRUE else ""
    predicted = _mappings(record.get("predictions"))[:1]
    if record["outcome"] == "correct" or not predicted:
        return f"labelled {_text(true)}{more}: right"
    return f'<span class="wrong">truth: {_text(true)}{more}, predicted: {_text(_name(predicted[0]))}</span>'


def picture(figure: Mapping[str, object]) -> str:
    """A picture of the whole run: ``{"file", "caption"}``; it takes the width of the page."""
    return f'<article class="wide">\n{_picture(figure)}</article>\n'


def _picture(figure: Mapping[str, object]) -> str:
    link, caption = _link(figure.get("file", "")), _text(figure.get("caption", ""))
    return (
        f'<figure>\n<a href="{link}"><img src="{link}" loading="lazy" decoding="async" alt="{caption}"></a>\n'
        f"<figcaption><strong>{caption}</strong></figcaption>\n</figure>\n"
    )


def end() -> str:
    """What closes the page."""
    return "</main>\n</body>\n</html>\n"


def _figures(explanations: Sequence[Mapping[str, object]], record: Mapping[str, object]) -> str:
    """The explanations, each below its picture; those that share one, such as a panel, below it together."""
    groups: list[tuple[tuple[str, object], list[Mapping[str, object]]]] = []
    for explanation in explanations:
        shown = _shown(explanation)
        if groups and shown[1] is not None and groups[-1][0] == shown:
            groups[-1][1].append(explanation)
        else:
            groups.append((shown, [explanation]))
    return "".join(_figure(shown, own, record) for shown, own in groups)


def _shown(explanation: Mapping[str, object]) -> tuple[str, object]:
    """The kind and the name of the picture that stands for an explanation; an empty kind where there is none."""
    files = _files(explanation)
    # The panel of an image that the network gets wrong has truth and prediction side by side.
    kinds = ("panel", *_KINDS) if explanation.get("role") else _KINDS
    return next(((kind, files[kind]) for kind in kinds if kind in files), ("", None))


def _files(explanation: Mapping[str, object]) -> Mapping[str, object]:
    found = explanation.get("files")
    return found if isinstance(found, Mapping) else {}


def _figure(
    shown: tuple[str, object], explanations: Sequence[Mapping[str, object]], record: Mapping[str, object]
) -> str:
    """A picture, linked to its file, above what it explains and the scores of that."""
    kind, file = shown
    picture = ""
    if kind:
        # Known sizes keep the page from jumping while pictures come in.
        known = None if kind in _WIDE else _size(record)
        size = f' width="{known[0]}" height="{known[1]}"' if known else ""
        link = _link(file)
        about = ", ".join(dict.fromkeys(f"{_method(each)} {_text(kind)} for {_label(each)}" for each in explanations))
        picture = f'<a href="{link}"><img src="{link}" loading="lazy" decoding="async"{size} alt="{about}"></a>\n'
    captions = "".join(f"<figcaption>{_caption(each)}</figcaption>\n" for each in explanations)
    return f"<figure>\n{picture}{captions}</figure>\n"


def _caption(explanation: Mapping[str, object]) -> str:
    """The class that is explained, how, the scores, and the files."""
    target = explanation.get("target")
    probability = _number(target.get("probability")) if isinstance(target, Mapping) else None
    sure = "" if probability is None else f" {_percent(probability)}"
    against = "against " if explanation.get("counterfactual") else ""
    role = f"{_text(explanation['role'])}: " if explanation.get("role") else ""
    layer = explanation.get("layer")
    where = "" if layer is None else f" at {_text(layer)}"
    files = _files(explanation)
    others = "".join(f'<a href="{_link(path)}">{_text(kind)}</a>' for kind, path in files.items())
    links = f'<p class="links">{others}</p>\n' if others else ""
    return (
        f"{role}{against}<strong>{_label(explanation)}</strong>{sure}"
        f'<p class="facts">{_method(explanation)}{where}</p>\n'
        f"{_scores(explanation.get('scores'))}{links}"
    )


def _label(explanation: Mapping[str, object]) -> str:
    target = explanation.get("target")
    return _text(_name(target)) if isinstance(target, Mapping) else ""


def _method(explanation: Mapping[str, object]) -> str:
    return _text(explanation.get("method", "")) + (" (counterfactual)" if explanation.get("counterfactual") else "")


def _scores(scores: object) -> str:
    if not isinstance(scores, Mapping) or not scores:
        return ""
    if scores.get("flat"):
        return '<p class="facts">the map is zero, or the same, everywhere</p>\n'
    pairs = "".join(
        f"<div><dt>{_text(str(name).replace('_', ' '))}</dt><dd>{_value(value)}</dd></div>"
        for name, value in _flattened(scores)
        if value is not None
    )
    return f'<dl class="scores">{pairs}</dl>\n'


def _flattened(scores: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """Scores by name; of the several of a metric those that are single values, not its curves and baselines."""
    for name, value in scores.items():
        if not isinstance(value, Mapping):
            yield str(name), value
            continue
        for figure, own in value.items():
            if isinstance(own, bool | int | float | str):
                yield str(figure) if figure == name else f"{name} {figure}", own


def _predictions(predictions: Iterable[Mapping[str, object]]) -> str:
    lines = []
    for prediction in predictions:
        probability = _number(prediction.get("probability"))
        bar, number = "<span></span>", ""
        if probability is not None:
            width = 100.0 * min(max(probability, 0.0), 1.0)
            bar = f'<span class="bar"><i style="width:{width:.1f}%"></i></span>'
            number = _percent(probability)
        lines.append(f'<li><span>{_text(_name(prediction))}</span>{bar}<span class="number">{number}</span></li>\n')
    return f'<ul class="predictions">\n{"".join(lines)}</ul>\n' if lines else ""


def _name(target: Mapping[str, object]) -> object:
    """The label of a class, or its index where it has none."""
    label = target.get("label")
    return label if label not in (None, "") else f"class {target.get('class_index', '?')}"


def _mappings(value: object) -> list[Mapping[str, object]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list | tuple) else []


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _size(record: Mapping[str, object]) -> tuple[int, int] | None:
    width, height = _number(record.get("width")), _number(record.get("height"))
    return None if width is None or height is None else (int(width), int(height))


def _value(value: object) -> str:
    """A score in three digits; a list of them in commas, and of several figures those that are one number or word."""
    if isinstance(value, Mapping):
        single = {name: each for name, each in value.items() if isinstance(each, float | int | str)}
        return ", ".join(f"{_text(str(name).replace('_', ' '))} {_value(each)}" for name, each in single.items())
    if isinstance(value, list | tuple):
        return ", ".join(_value(item) for item in value)
    return f"{value:.3g}" if isinstance(value, float) else _text(value)
