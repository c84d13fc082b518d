"""Writes docs/networks.md, and the README's sentence about it, from results of the benchmarks.

python -m benchmarks.families              # walks the networks: families.json
python -m benchmarks.attention_families    # those with attention, for their tokens: attention_families.json
python docs/networks.py                    # rewrites docs/networks.md and README.md
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
README, PAGE = ROOT / "README.md", ROOT / "docs" / "networks.md"
RESULTS = ROOT / "benchmarks" / "results" / "families.json"
ATTENTION = RESULTS.with_name("attention_families.json")
MATRICES = ("chefer", "gradient_rollout", "legrad", "rollout")
BEGIN, END = "<!-- networks: begin (python docs/networks.py) -->", "<!-- networks: end -->"
TITLES = {
    "gradcam": "Grad-CAM",
    "guided": "Guided backpropagation",
    "lrp": "LRP",
    "excitation_backprop": "Excitation backprop",
    "fullgrad": "FullGrad",
    "occlusion": "Occlusion",
    "top-patches": "Top patches",
}
WORDS = {"map": "yes", "refused": "refused", "wrong": "**wrong**", "crash": "**crash**", "memory": "out of memory"}
ORDER = ("not reached", "crash", "wrong", "memory", "refused", "map")


def networks(found: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each network, of its rows, one for each size."""
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for row in found["rows"]:
        one = merged.setdefault((row["library"], row["network"]), {**row, "results": {}})
        one.update({key: row[key] for key in ("error", "ended") if key in row})
        one["results"] |= row["results"]
    return list(merged.values())


def worst(row: dict[str, Any], method: str) -> dict[str, Any]:
    """What a method came to on a network: the worse of its sizes."""
    found = [size.get(method, {"outcome": "not reached"}) for size in row["results"].values()]
    return min(found or [{"outcome": "not reached"}], key=lambda each: ORDER.index(each["outcome"]))


def sentence(found: dict[str, Any]) -> str:
    """The README's: how many families, and how many of them each method has maps for."""
    rows = networks(found)
    counts = {t: sum(worst(row, method)["outcome"] == "map" for row in rows) for method, t in TITLES.items()}
    libraries = [sum(row["library"] == library for row in rows) for library in ("torchvision", "timm")]
    return (
        f"Tried on the smallest network of {len(rows)} families ({libraries[0]} of torchvision, {libraries[1]} of "
        f"timm). Networks with checked maps: {', '.join(f'{title} {count}' for title, count in counts.items())}; the "
        "others are refused with a reason, or marked as wrong. [`docs/networks.md`](docs/networks.md) lists each."
    )


def page(found: dict[str, Any]) -> str:
    """docs/networks.md."""
    machine, rows = found["machine"], networks(found)
    lines = [
        "# Networks that the methods were tried on",
        "",
        "Written by `python docs/networks.py` from `benchmarks/results/families.json`, which "
        "`python -m benchmarks.families` writes.",
        "",
        f"{len(rows)} networks of {len(found['choices'])} families: the smallest of each, where a family of timm is a "
        "file of its `models`. "
        "The weights are random; batch normalisations have the statistics of photographs, and what would start as a "
        "constant is drawn at random, so that every part of a network matters. Each is run at a taller size, "
        "where it takes one, and at a square one; the table names the sizes that were walked. Networks with "
        "self-attention were walked before their tokens were explained as maps: of these, what [the second "
        "table](#networks-with-attention) says of layers counts.",
        "",
        f"torch {machine['torch']}, torchvision {machine['torchvision']}, timm {machine['timm']}, Python "
        f"{machine['python']}, on {machine['cores']} cores ({machine['cpu']}), {machine['date']}.",
        "",
        '"yes" means:',
        "",
        "- Grad-CAM: the map has the image's proportions, and changes at the upper right and the lower left of the "
        "image are found there in the layer.",
        "- Guided backpropagation: with its rule switched off it is the network's own gradient.",
        "- LRP: a finite map. Biases keep their share of the score, as in the paper: the report's conservation gap.",
        "- Excitation backprop: probabilities that sum to at most 1.",
        "- FullGrad: the shares of the image and of all constants sum to the score within 1 % of it.",
        "- Occlusion: two windows that are hidden one by one give the same drops within 1 %.",
        "- Top patches: a run over photographs, in which every patch is reproduced from its receptive field.",
        "",
        "| family | network | parameters | sizes | " + " | ".join(TITLES.values()) + " |",
        "| --- | --- | --- | --- |" + " --- |" * len(TITLES),
    ]
    for row in rows:
        sizes = ", ".join(row["results"])
        cells = [WORDS.get(worst(row, method)["outcome"], "not reached") for method in TITLES]
        name = row["network"] if row["library"] == "torchvision" else f"timm/{row['network']}"
        lines.append(
            f"| {row['family']} | `{name}` | {row['parameters'] / 1e6:.1f} M | {sizes} | " + " | ".join(cells) + " |"
        )
    return "\n".join([*lines, "", *_reasons(rows), *_others(found)]) + "\n"


def attention_page(found: dict[str, Any]) -> str:
    """The second table: networks with attention, one size each."""
    machine, rows = found["machine"], found["rows"]
    maps = sum(row.get("gradcam", {}).get("outcome") == "map" for row in rows)
    matrices = sum(row.get("chefer", {}).get("outcome") == "map" for row in rows)
    lines = [
        "## Networks with attention",
        "",
        "From `benchmarks/results/attention_families.json` (`python -m benchmarks.attention_families`, "
        f"{machine['date']}, {machine['cpu']}). {len(rows)} families: {maps} have a checked map at the layer that is "
        f"named, {matrices} attention matrices that `cnnviz attention` reads (`chefer`, `gradient_rollout`, `legrad`, "
        "`rollout`); the others are refused. Checked is that the map has the layer's grid, that the score's own "
        "gradient reaches the image, and that cells, with every attention matrix made the identity, look at places "
        "that move over the image as the cells do over the map.",
        "",
        "| family | network | size | layer | grid | attention matrices |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    reasons: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        name, layer = row["network"], row.get("gradcam", {})
        if "error" in row:
            reasons[row["error"].partition("\n")[0]].append(name)
        for each in ("gradcam", "chefer"):
            if "reason" in row.get(each, {}):
                reasons[_kind_of(row[each]["reason"])].append(name)
        said = {each: row.get(each, {}).get("outcome") for each in MATRICES}
        read = "yes" if set(said.values()) == {"map"} else "refused" if said["chefer"] == "refused" else "not all"
        grid = "x".join(map(str, layer.get("grid", [])))
        place = f"`{layer['layer']}`" if "layer" in layer else WORDS.get(layer.get("outcome", ""), "not reached")
        shown = f"`{name}`" if row["library"] == "torchvision" else f"`timm/{name}`"
        lines.append(f"| {row['family']} | {shown} | {row.get('size', '')} | {place} | {grid} | {read} |")
    told = [f"- {reason} ({', '.join(names)})" for reason, names in sorted(reasons.items())]
    return "\n".join([*lines, "", "### Why not", "", *told]) + "\n"


def _kind_of(reason: str) -> str:
    """A reason without the numbers and names that tell networks apart."""
    text = re.sub(r" \([^()]*first[^()]*\)", "", reason.replace("NAME", "The network").replace("|", "/"))
    return re.sub(r"; \w+ cannot be traced", "; it cannot be traced", re.sub(r"\d+ of \d+", "not all", text))


def _reasons(rows: list[dict[str, Any]]) -> list[str]:
    grouped: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        if "error" in row or "ended" in row:
            grouped["The walk", row.get("error") or f"ended {row['ended']}"].append(row["network"])
        for method, title in TITLES.items():
            result = worst(row, method)
            if "reason" in result and result["outcome"] != "map":
                text = result["reason"].replace("benchmarks.family_networks:current", "NAME")
                grouped[title, text].append(row["network"])
    lines = ["## Why not", ""] if grouped else []
    for (title, reason), networks in sorted(grouped.items()):
        lines.append(f"- {title}: {reason.replace('|', '/')} ({', '.join(networks)})")
    return [*lines, ""] if lines else []


def _others(found: dict[str, Any]) -> list[str]:
    there = {(row["library"], row["network"]) for row in found["rows"]}
    missing = [f"`{c['network']}`" for c in found["choices"] if (c["library"], c["network"]) not in there]
    return [f"Not walked: {', '.join(missing)}."] if missing else []


def with_sentence(text: str, found: dict[str, Any]) -> str:
    """The README with the sentence between its markers."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{sentence(found)}\n{END}{after}"


if __name__ == "__main__":
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    walked = json.loads(ATTENTION.read_text(encoding="utf-8"))
    PAGE.write_text(f"{page(results)}\n{attention_page(walked)}", encoding="utf-8")
    README.write_text(with_sentence(README.read_text(encoding="utf-8"), results), encoding="utf-8")
