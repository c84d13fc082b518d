"""The list of verified networks: README, page and results say the same, and nothing went wrong."""

from __future__ import annotations

import json
import re
import runpy
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
FOUND: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / "families.json").read_text(encoding="utf-8"))
WALKED: dict[str, Any] = json.loads(
    (ROOT / "benchmarks" / "results" / "attention_families.json").read_text(encoding="utf-8")
)
PAGE = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_page_and_the_readme_are_what_the_results_say() -> None:
    written = runpy.run_path(str(ROOT / "docs" / "networks.py"))
    assert f"{written['page'](FOUND)}\n{written['attention_page'](WALKED)}" == PAGE, "run: python docs/networks.py"
    assert written["with_sentence"](README, FOUND) == README, "run: python docs/networks.py"


def test_the_counts_are_those_of_the_rows() -> None:
    outcomes: dict[tuple[str, str], list[str]] = {}
    for row in FOUND["rows"]:
        of_network = outcomes.setdefault((row["library"], row["network"]), [])
        of_network += [results.get("gradcam", {}).get("outcome", "none") for results in row["results"].values()]
    said = re.search(r"smallest network of (\d+) families \((\d+) of torchvision, (\d+) of timm\)", README)
    assert said is not None
    kinds = Counter(library for library, _ in outcomes)
    assert [int(n) for n in said.groups()] == [len(outcomes), kinds["torchvision"], kinds["timm"]]
    maps = re.search(r"checked maps: Grad-CAM (\d+),", README)
    assert maps is not None
    drawn = sum(bool(each) and set(each) == {"map"} for each in outcomes.values())
    assert int(maps[1]) == drawn == FOUND["counts"]["gradcam"]["map"]
    assert len(re.findall(r"^\| [^|]+ \| `", PAGE.split("## Networks with attention")[0], flags=re.M)) == len(outcomes)


def test_no_network_with_attention_is_wrong() -> None:
    outcomes = [row["gradcam"]["outcome"] for row in WALKED["rows"]]
    assert set(outcomes) == {"map", "refused"}
    assert f"{len(outcomes)} families: {outcomes.count('map')} have a checked map" in PAGE
    for row in WALKED["rows"]:
        refused = [row[each] for each in ("gradcam", "chefer") if row[each]["outcome"] == "refused"]
        assert all(each["reason"] for each in refused), row["network"]


def test_nothing_crashed_and_maps_follow_the_image() -> None:
    wrong = set()
    for row in FOUND["rows"]:
        for size, results in row["results"].items():
            height, width = map(int, size.split("x"))
            for method, figures in results.items():
                if isinstance(figures, dict):
                    assert figures["outcome"] != "crash", (row["network"], size, method, figures)
                    wrong |= {(row["network"], method)} if figures["outcome"] == "wrong" else set()
                    assert figures["outcome"] != "refused" or figures["reason"], (row["network"], method)
            grid = results.get("gradcam", {}).get("map")
            if grid:
                assert abs(grid[0] * width - grid[1] * height) < width + height, row["network"]
    assert wrong == set()
