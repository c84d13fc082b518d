"""index.html: the gallery of one or several runs, as it stands without its scripts.

``begin`` + for each run ``run_head`` and its tables + one ``card`` a record + ``end``. The page needs nothing but the
files beside it: its scripts, its style and its data lie in ``gallery/``, and its Content-Security-Policy forbids all
else. The scripts put cards of their own, with filters and a close view, in the place of these. Names and labels are
untrusted: every text is escaped, and what a page cannot show (control characters, bytes that are no UTF-8) is spelled
out.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cnnviz.report import record_words as words
from cnnviz.report.markup import anchor
from cnnviz.report.markup import link as _link
from cnnviz.report.markup import percent as _percent
from cnnviz.report.markup import text as _text

POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; base-uri 'none'; form-action 'none'"
)
"""What a page opened from the disk may do, and what it needs."""
GENERATOR = '<meta name="generator" content="cnnviz">'
"""By which a page is known to be ours."""
FOLDER = "gallery"
"""Of the files that a page is made of, beside it."""
STYLE = f"{FOLDER}/style.css"

# Pictures that may stand for an explanation, the best first; those of several take the width of the page.
_KINDS = ("boxes", "gradient", "overlay", "panel", "heatmap")
WIDE = ("boxes", "panel")


@dataclass(frozen=True)
class Gallery:
    """What stands above the cards of a run.

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


def document(title: str, policy: str = POLICY, style: str = f'<link rel="stylesheet" href="{STYLE}">') -> str:
    """The page up to its body.

    Args:
        title: Of the page.
        policy: Its Content-Security-Policy.
        style: The element that brings its style.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="referrer" content="no-referrer">\n{GENERATOR}\n'
        f"<title>{_text(title)}</title>\n{style}\n</head>\n<body>\n"
    )


def run_head(gallery: Gallery) -> str:
    """What is said of a run: its command, its model, its figures."""
    pairs = "".join(f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>\n" for name, value in gallery.summary)
    summary = f'<dl class="summary">\n{pairs}</dl>\n' if pairs else ""
    return (
        f"<header>\n<h1>{_text(gallery.title)}</h1>\n"
        f'<p><code class="command">{_text(gallery.command)}</code><br>{_text(gallery.model)}</p>\n{summary}</header>\n'
    )


def begin(gallery: Gallery) -> str:
    """The page of a single run up to the first card."""
    return f"{document(gallery.title)}{run_head(gallery)}<main>\n"


def card(record: Mapping[str, object], place: int = 0) -> str:
    """One record of a run: its overlays with scores, its predictions, or its error.

    Fields that a record lacks are left out; it is otherwise as in records.jsonl.

    Args:
        record: What the run says of an input.
        place: Number of the run on the page.
    """
    explanations = words.mappings(record.get("explanations"))
    own = words.mappings(record.get("figures"))
    figures = "".join(_picture(figure) for figure in own) + _figures(explanations, record)
    wide = bool(own) or any(shown(each)[0] in WIDE for each in explanations)
    facts = [_text(fact) for fact in words.facts(record)]
    if (outcome := words.outcome(record)) is not None:
        said = _text(outcome[1])
        facts.append(f'<span class="wrong">✗ {said}</span>' if outcome[0] == "wrong" else f"✓ {said}")
    kind, reason = ' class="wide"' if wide else "", ""
    if failure := words.failure(record):
        kind, reason = ' class="failed"', f'<p class="error">{_text(failure)}</p>\n'
    named = f' id="{anchor(record["name"], place)}"' if "name" in record else ""
    return (
        f'<article{named}{kind}>\n{figures}<div class="text">\n'
        f"<h2>{_text(record.get('path', ''))}</h2>\n"
        + (f'<p class="facts">{" · ".join(facts)}</p>\n' if facts else "")
        + reason
        + _predictions(words.mappings(record.get("predictions")))
        + "</div>\n</article>\n"
    )


def picture(figure: Mapping[str, object]) -> str:
    """A picture of the whole run: ``{"file", "caption"}``; it takes the width of the page."""
    return f'<article class="wide">\n{_picture(figure)}</article>\n'


def _picture(figure: Mapping[str, object]) -> str:
    link, caption = _link(figure.get("file", "")), _text(figure.get("caption", ""))
    image = f'<img src="{link}" loading="lazy" decoding="async" alt="{caption}">'
    # Of a single file the picture would stand there twice, for a link that browsers do not follow.
    shown_image = image if link.startswith("data:") else f'<a href="{link}">{image}</a>'
    return f"<figure>\n{shown_image}\n<figcaption><strong>{caption}</strong></figcaption>\n</figure>\n"


def end(scripts: Iterable[str] = ()) -> str:
    """What closes the page.

    Args:
        scripts: Files of its scripts, in their order.
    """
    run = "".join(f'<script src="{_link(name)}"></script>\n' for name in scripts)
    return f"</main>\n{run}</body>\n</html>\n"


def _figures(explanations: Sequence[Mapping[str, object]], record: Mapping[str, object]) -> str:
    """The explanations, each below its picture; those that share one, such as a panel, below it together."""
    groups: list[tuple[tuple[str, object], list[Mapping[str, object]]]] = []
    for explanation in explanations:
        found = shown(explanation)
        if groups and found[1] is not None and groups[-1][0] == found:
            groups[-1][1].append(explanation)
        else:
            groups.append((found, [explanation]))
    return "".join(_figure(found, own, record) for found, own in groups)


def shown(explanation: Mapping[str, object]) -> tuple[str, object]:
    """The kind and the name of the picture that stands for an explanation; an empty kind where there is none."""
    files = words.files(explanation)
    # The panel of an image that the network gets wrong has truth and prediction side by side.
    kinds = ("panel", *_KINDS) if explanation.get("role") else _KINDS
    return next(((kind, files[kind]) for kind in kinds if kind in files), ("", None))


def _figure(
    found: tuple[str, object], explanations: Sequence[Mapping[str, object]], record: Mapping[str, object]
) -> str:
    """A picture, linked to its file, above what it explains and the scores of that."""
    kind, file = found
    picture = ""
    if kind:
        # Known sizes keep the page from jumping while pictures come in.
        known = None if kind in WIDE else words.size(record)
        size = f' width="{known[0]}" height="{known[1]}"' if known else ""
        link = _link(file)
        said = (f"{words.method(each)} {kind} for {words.explained(each)}" for each in explanations)
        about = _text(", ".join(dict.fromkeys(said)))
        picture = f'<a href="{link}"><img src="{link}" loading="lazy" decoding="async"{size} alt="{about}"></a>\n'
    captions = "".join(f"<figcaption>{_caption(each, record)}</figcaption>\n" for each in explanations)
    return f"<figure>\n{picture}{captions}</figure>\n"


def _caption(explanation: Mapping[str, object], record: Mapping[str, object]) -> str:
    """The class that is explained, how, the scores, and the files."""
    sure = words.sure(explanation, record)
    layer = explanation.get("layer")
    where = "" if layer is None else f" at {_text(layer)}"
    others = "".join(f'<a href="{_link(path)}">{_text(kind)}</a>' for kind, path in words.files(explanation).items())
    links = f'<p class="links">{others}</p>\n' if others else ""
    return (
        f"{_text(words.role(explanation))}<strong>{_text(words.explained(explanation))}</strong>"
        f"{' ' if sure else ''}{_text(sure)}"
        f'<p class="facts">{_text(words.method(explanation))}{where}</p>\n'
        f"{_scores(explanation)}{links}"
    )


def _scores(explanation: Mapping[str, object]) -> str:
    if words.is_flat(explanation):
        return f'<p class="facts">{words.FLAT}</p>\n'
    pairs = "".join(
        f"<div><dt>{_text(name)}</dt><dd>{_text(value)}</dd></div>" for name, value, _ in words.scores(explanation)
    )
    return f'<dl class="scores">{pairs}</dl>\n' if pairs else ""


def _predictions(predictions: Iterable[Mapping[str, object]]) -> str:
    lines = []
    for prediction in predictions:
        probability = words.number(prediction.get("probability"))
        bar, share = "<span></span>", ""
        if probability is not None:
            width = min(max(probability, 0.0), 1.0)
            bar, share = f'<progress class="bar" max="1" value="{width:.3f}"></progress>', _percent(probability)
        note = words.prediction_note(prediction)
        more = f" <small>{_text(note)}</small>" if note else ""
        name = _text(words.name(prediction))
        lines.append(f'<li><span>{name}{more}</span>{bar}<span class="number">{share}</span></li>\n')
    return f'<ul class="predictions">\n{"".join(lines)}</ul>\n' if lines else ""
