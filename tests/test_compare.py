"""``cnnviz compare``: two runs against each other, held to figures that are computed from their files once more."""

from __future__ import annotations

import html
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from cnnviz.cli.app import main
from cnnviz.compare.sides import of_b
from cnnviz.errors import CnnvizError
from cnnviz.metrics.similarity import pearson
from cnnviz.metrics.tests import mcnemar_p
from cnnviz.registry.comparisons import CompareOptions
from tests.support import tiny_model
from tests.support.pictures import photograph, pixels
from tests.support.runs import tiny_options

COUNT = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs in folders of two classes, two checkpoints of one network, and a comparison of both."""
    base = tmp_path_factory.mktemp("compare")
    for index in range(COUNT):
        place = base / "photos" / f"class {index % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph(index)).save(place / f"{index}.png")
    shown = torch.from_numpy(np.stack([photograph(index, (64, 64)) for index in range(COUNT)])).permute(0, 3, 1, 2)
    generator = torch.Generator().manual_seed(11)
    for name, noise in (("old", 0.0), ("new", 0.6)):
        network = tiny_model.make()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += noise * parameter.std() * torch.randn(parameter.shape, generator=generator)
            network[-1].bias -= network(shown / 128.0 - 1.0).mean(0)  # else all are of one class
        torch.save(network.state_dict(), base / f"{name}.pth")
    assert compared(base, "out", *checkpoints(base)) == 0
    return base


def checkpoints(base: Path) -> list[str]:
    return ["--checkpoint", str(base / "old.pth"), "--checkpoint-b", str(base / "new.pth")]


def compared(base: Path, out: str, *options: str, inputs: Sequence[Path] = ()) -> int:
    named = [str(each) for each in inputs or [base / "photos"]]
    return main(["compare", *named, *tiny_options(), "-o", str(base / out), "-q", *options])


def explained(base: Path, out: str, *options: str, inputs: Sequence[Path] = ()) -> Path:
    """The folder of a run of gradcam."""
    named = [str(each) for each in inputs or [base / "photos"]]
    assert main(["gradcam", *named, *tiny_options(), "-o", str(base / out), "-q", *options]) == 0
    return base / out


def report(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return loaded


def figures(base: Path, out: str) -> dict[str, Any]:
    found: dict[str, Any] = report(base / out)["summary"]["compare"]
    return found


def raw(run: Path, record: dict[str, Any]) -> Any:
    with np.load(run / record["explanations"][0]["files"]["raw"]) as stored:
        return stored["raw"].astype(np.float64)


def test_correlation_and_mcnemar_are_those_of_scipy() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(2, 5, 7)).astype(np.float32)
    assert pearson(a, b) == pytest.approx(stats.pearsonr(a.ravel(), b.ravel()).statistic, abs=1e-7)
    assert pearson(1e-30 * a, b) == pytest.approx(stats.pearsonr(a.ravel(), b.ravel()).statistic, abs=1e-6)
    assert pearson(a, np.ones_like(b)) is None
    for only_a, only_b in [(0, 0), (1, 0), (3, 9), (9, 3), (5, 5), (0, 12), (40, 61)]:
        expected = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
        assert mcnemar_p(only_a, only_b) == pytest.approx(expected, abs=1e-9)


def test_two_checkpoints(folder: Path) -> None:
    """Maps of the class that A predicts, in both; everything is computed again from the runs' own files."""
    runs = [report(folder / "out" / side)["images"] for side in "ab"]
    names = [record["name"] for record in runs[0]]
    assert names == [record["name"] for record in runs[1]]
    spearman, changed = {}, {}
    for a, b in zip(*runs, strict=True):
        assert b["explanations"][0]["target"]["label"] == a["predictions"][0]["label"]
        maps = [raw(folder / "out" / side, record).ravel() for side, record in (("a", a), ("b", b))]
        spearman[a["name"]] = stats.spearmanr(*maps).statistic
        changed[a["name"]] = a["predictions"][0]["class_index"] != b["predictions"][0]["class_index"]
    assert len(set(changed.values())) == 2  # else the order says nothing
    found = figures(folder, "out")
    assert found["similarity"]["spearman"]["value"] == pytest.approx(np.mean(list(spearman.values())), abs=1e-6)
    low, high = found["similarity"]["spearman"]["ci95"]
    assert low < found["similarity"]["spearman"]["value"] < high
    assert found["similarity"]["spearman"]["n"] == found["maps"] == found["images"] == COUNT
    assert found["changed_predictions"]["value"] == pytest.approx(np.mean(list(changed.values())))
    assert found["agreement"]["value"] + found["changed_predictions"]["value"] == pytest.approx(1)
    for key, which in (("same_prediction", False), ("other_prediction", True)):
        own = [spearman[name] for name in names if changed[name] == which]
        assert found[key]["value"] == pytest.approx(np.mean(own), abs=1e-6)
    assert not found["same_network"]
    assert found["resampled"] == found["from_pictures"] == found["other_targets"] == 0
    expected = sorted(names, key=lambda name: (not changed[name], spearman[name]))
    records = report(folder / "out")["images"]
    assert [record["name"] for record in records] == expected
    assert [row["name"] for row in found["most_changed"]] == expected
    for record in records:
        assert record["change"] == pytest.approx(1 - spearman[record["name"]], abs=1e-6)
        assert record["changed_prediction"] == changed[record["name"]]
        assert [each["run"] for each in record["explanations"]] == ["a", "b"]
        assert pixels(folder / "out" / record["explanations"][0]["files"]["panel"]).shape[1] > 4 * 240


def test_a_run_against_itself(folder: Path) -> None:
    same = ["--checkpoint", str(folder / "old.pth"), "--checkpoint-b", str(folder / "old.pth")]
    limits = ["--min-similarity", "1", "--max-changed-predictions", "0", "--panels", "2"]
    assert compared(folder, "same", *same, *limits, "--class", "folder") == 0
    found = figures(folder, "same")
    assert found["same_network"]
    assert found["passed"] is True
    assert [found["similarity"][name]["value"] for name in ("spearman", "pearson", "ssim")] == pytest.approx([1, 1, 1])
    assert found["agreement"] == {"value": 1.0, "ci95": found["agreement"]["ci95"], "n": COUNT}
    right = found["right"]
    truth = [record["outcome"] == "correct" for record in report(folder / "same" / "a")["images"]]
    assert (right["both"], right["only_a"], right["only_b"], right["neither"]) == (
        sum(truth), 0, 0, COUNT - sum(truth),
    )  # fmt: skip
    assert right["mcnemar_p"] == 1.0
    drawn = [bool(record["explanations"][0]["files"]) for record in report(folder / "same")["images"]]
    assert drawn == [True] * 2 + [False] * (COUNT - 2)


def test_what_is_allowed_decides_the_exit_code(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [folder / "out" / side for side in "ab"]
    measured = figures(folder, "out")
    similarity, changed = measured["similarity"]["spearman"]["value"], measured["changed_predictions"]["value"]
    bounds = [
        (["--min-similarity", str(similarity + 0.01)], 1),
        (["--min-similarity", str(similarity - 0.01)], 0),
        (["--max-changed-predictions", str(changed - 0.01)], 1),
        (["--max-changed-predictions", str(changed + 0.01)], 0),
    ]
    for options, code in bounds:
        found = main(["compare", *map(str, runs), "-o", str(folder / "gate"), "--overwrite", "--panels", "0", *options])
        assert found == code
        assert ("NOT WITHIN WHAT IS ALLOWED" in capsys.readouterr().err) == bool(code)
        assert figures(folder, "gate")["passed"] is not bool(code)
    # The two runs of a comparison are compared as it compared them.
    assert figures(folder, "gate")["similarity"] == measured["similarity"]


def test_preprocessing_of_b(folder: Path) -> None:
    """That of B alone is what its own run would have; the network is the same."""
    own = ["--mean-b", "0.2,0.3,0.4", "--std-b", "0.5", "--resize-b", "80", "--channel-order-b", "bgr"]
    assert compared(folder, "shown", *own, "--panels", "0") == 0
    plain = explained(folder, "shown-a", "--save", "raw")
    options = ["--mean", "0.2,0.3,0.4", "--std", "0.5", "--resize", "80", "--channel-order", "bgr"]
    other = explained(folder, "shown-b", "--save", "raw", "-c", f"run:{plain}", *options)
    for side, alone in (("a", plain), ("b", other)):
        found, expected = report(folder / "shown" / side), report(alone)
        assert found["model"] == expected["model"]
        assert [each["predictions"] for each in found["images"]] == [each["predictions"] for each in expected["images"]]
    assert figures(folder, "shown")["same_network"]
    differs = figures(folder, "shown")["differs"]
    assert [each.split(" (A: ")[0] for each in differs][-3:] == [
        "mean 0.2,0.3,0.4",
        "std 0.5,0.5,0.5",
        "channel order bgr",
    ]
    assert figures(folder, "out")["differs"] == []
    page = (folder / "shown" / "index.html").read_text()
    assert "B differs in" in page
    assert "mean 0.2,0.3,0.4" in page
    assert report(plain)["model"] != report(other)["model"]


def test_images_that_one_run_lacks(folder: Path) -> None:
    photos = folder / "some"
    shutil.copytree(folder / "photos", photos)
    a = explained(folder, "first", "--save", "raw", inputs=[photos])
    (photos / "class 0" / "0.png").unlink()
    Image.fromarray(photograph(40)).save(photos / "class 1" / "1.png")
    Image.fromarray(photograph(41)).save(photos / "class 0" / "fresh.png")
    (photos / "class 0" / "2.png").rename(photos / "class 0" / "moved.png")
    (photos / "class 1" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    named = [str(photos), *tiny_options(), "-o", str(folder / "second"), "-q", "--save", "raw"]
    assert main(["gradcam", *named]) == 3
    assert compared(folder, "missing", inputs=[a, folder / "second"]) == 3
    found = figures(folder, "missing")
    assert found["only_a"] == ["class 0/0.png"]
    assert found["only_b"] == ["class 0/fresh.png"]
    assert found["other_files"] == ["class 1/1.png"]
    # An image of another name is the same image.
    assert sorted(record["name"] for record in report(folder / "missing")["images"] if not record["error"]) == [
        "class 0/2.png", "class 0/4.png", "class 1/5.png",
    ]  # fmt: skip
    assert found["similarity"]["spearman"]["value"] == pytest.approx(1)
    failed = report(folder / "missing")["images"][-1]
    assert failed["name"] == "class 1/3.png"
    assert failed["error"]["message"].startswith("B: ")


def test_photographs_that_are_gone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are drawn grey, and said; a run without maps is no run to compare."""
    photos = folder / "soon gone"
    shutil.copytree(folder / "photos", photos)
    a, b = (explained(folder, f"gone-{index}", "--save", "raw", "-c", str(index), inputs=[photos]) for index in (0, 1))
    blank = explained(folder, "blank", "--save", "none", inputs=[photos])
    shutil.rmtree(photos)
    assert main(["compare", str(a), str(b), "-o", str(folder / "gone"), "--panels", "3"]) == 0
    assert "3 photographs are not where the run of A read them" in capsys.readouterr().err
    assert figures(folder, "gone")["other_targets"] == COUNT
    assert (
        main(["compare", str(a), str(blank), "-o", str(folder / "gone"), "--overwrite", "--min-similarity", "-1"]) == 1
    )
    assert figures(folder, "gone")["without_map"] == COUNT
    assert (figures(folder, "gone")["not_kept_a"], figures(folder, "gone")["not_kept_b"]) == (0, COUNT)
    said = f"B ({blank}) keeps neither raw map nor heatmap of {COUNT} of its maps: run it again with --save raw"
    assert said in capsys.readouterr().err
    assert html.escape(said) in (folder / "gone" / "index.html").read_text()
    assert main(["activations", str(folder / "photos"), *tiny_options(), "-o", str(folder / "study"), "-q"]) == 0
    assert main(["compare", str(a), str(folder / "study"), "-o", str(folder / "none")]) == 2
    assert "study has no maps: it was made by cnnviz activations" in capsys.readouterr().err


def test_a_flat_map_has_no_similarity(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its place is that of a correlation of zero; the reason stands for the number."""
    a, b = folder / "ends", folder / "flat"
    for run, side in ((a, "a"), (b, "b")):
        shutil.copytree(folder / "out" / side, run)
    changed = {row["name"]: row["changed_prediction"] for row in figures(folder, "out")["most_changed"]}
    flat = next(each for each in report(b)["images"] if not changed[each["name"]])
    path = b / flat["explanations"][0]["files"]["raw"]
    with np.load(path) as stored:
        kept = dict(stored)
    np.savez(path, **{**kept, "raw": np.full_like(kept["raw"], 0.5)})
    assert main(["compare", str(a), str(b), "-o", str(folder / "with flat"), "--panels", "0"]) == 0
    why = "the map of B is the same everywhere"
    row = next(each for each in figures(folder, "with flat")["most_changed"] if each["name"] == flat["name"])
    assert (row["change"], row["why"], row["one_is_flat"]) == (None, why, True)
    told = [line for line in capsys.readouterr().err.splitlines() if flat["name"] in line]
    assert [line.split()[-len(why.split()) - 1 :] for line in told] == [["-", *f"({why})".split()]]
    order = [each for each in report(folder / "with flat")["images"] if not each["changed_prediction"]]
    place = [each["name"] for each in order].index(flat["name"])
    assert all(each["change"] >= 1 for each in order[:place])
    assert all(each["change"] <= 1 for each in order[place + 1 :])
    assert f"similarity - ({why})" in (folder / "with flat" / "index.html").read_text()


def test_the_page_says_what_the_terminal_says(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(folder / "out" / side) for side in "ab"]
    assert main(["compare", *runs, "-o", str(folder / "words"), "--max-changed-predictions", "0"]) == 1
    err, page = capsys.readouterr().err, (folder / "words" / "index.html").read_text()
    rate = figures(folder, "words")["changed_predictions"]
    said = f"{round(COUNT * rate['value'])} of {COUNT} ({100 * rate['value']:.3g} %"
    assert f"changed predictions: {said}" in err
    assert f"<dt>changed predictions</dt><dd>{said}" in page
    assert "allows no more than 0 %" in err
    for name in ("old.pth", "new.pth"):
        assert name in page.partition("<dl")[0].rpartition("<br>")[2]
    first = err.partition("what changed most (1 minus the rank correlation of its maps):\n")[2].splitlines()[0]
    record = next(each for each in report(folder / "words")["images"] if first.startswith(f"  {each['name']} "))
    (pair,) = record["pairs"]
    change = float(first.removeprefix(f"  {record['name']}").split()[0])
    assert change == pytest.approx(1 - pair["spearman"], abs=6e-4)


def test_against_an_earlier_run(folder: Path) -> None:
    """A network of today against a run that has ended; a new image is none that changed."""
    earlier = explained(folder, "earlier", "--checkpoint", str(folder / "old.pth"), "--save", "raw")
    options = ["--against", str(earlier / "report.json"), "--checkpoint", str(folder / "new.pth")]
    assert compared(folder, "today", *options) == 0
    today, before = figures(folder, "today"), figures(folder, "out")
    assert today["similarity"] == before["similarity"]
    assert today["changed_predictions"] == before["changed_predictions"]
    assert today["explained"] == "in both what A predicts"
    assert not (folder / "today" / "a").exists()
    asked = report(folder / "today" / "b")["options"]["class"]
    assert asked == [f"run:{earlier}"]


def test_each_explains_what_it_predicts(folder: Path) -> None:
    old, new = (
        explained(folder, name, "--checkpoint", str(folder / f"{name}.pth"), "--save", "raw") for name in ("old", "new")
    )
    assert compared(folder, "own", inputs=[old, new]) == 0
    found, changed = figures(folder, "own"), figures(folder, "out")["changed_predictions"]
    other = round(changed["value"] * COUNT)
    assert (found["other_targets"], found["maps"]) == (other, COUNT - other)
    assert compared(folder, "each", "--explained", "each", *checkpoints(folder)) == 0
    both = figures(folder, "each")
    assert (both["other_targets"], both["maps"]) == (other, COUNT)
    assert both["same_prediction"]["value"] == pytest.approx(found["similarity"]["spearman"]["value"], abs=1e-6)


def test_pictures_serve_where_no_exact_maps_are(folder: Path) -> None:
    a, b = (
        explained(folder, f"pictures-{name}", "--checkpoint", str(folder / f"{name}.pth"), "-c", "1", "--view", view)
        for name, view in (("old", "crop"), ("new", "squash"))
    )
    assert compared(folder, "pictures", inputs=[a, b]) == 0
    found = figures(folder, "pictures")
    assert found["from_pictures"] == found["resampled"] == found["maps"] == COUNT
    a, b = (
        explained(folder, f"exact-{name}", "--checkpoint", str(folder / f"{name}.pth"), "-c", "1", "--view", view,
                  "--save", "raw")
        for name, view in (("old", "crop"), ("new", "squash"))
    )  # fmt: skip
    assert compared(folder, "exact", inputs=[a, b]) == 0
    exact = figures(folder, "exact")
    assert (exact["from_pictures"], exact["resampled"]) == (0, COUNT)
    for name, near in (("spearman", 0.02), ("pearson", 0.02)):
        assert found["similarity"][name]["value"] == pytest.approx(exact["similarity"][name]["value"], abs=near)


def test_two_methods_and_a_resumed_comparison(folder: Path) -> None:
    options = ["--method", "gradcam", "--method-b", "saliency", "--panels", "1"]
    assert compared(folder, "methods", *options) == 0
    found = figures(folder, "methods")
    assert (found["a"]["methods"], found["b"]["methods"]) == (["gradcam"], ["saliency"])
    assert found["same_network"]
    assert found["agreement"]["value"] == 1.0
    assert found["resampled"] == COUNT  # cells of a layer, and pixels
    before = {path: path.read_bytes() for path in (folder / "methods" / "images").rglob("*.png")}
    assert before
    (folder / "methods" / "report.json").unlink()
    (folder / "methods" / "index.html").unlink()
    shutil.rmtree(folder / "methods" / "gallery")
    shutil.rmtree(folder / "methods" / "images")
    (folder / "methods" / "records.jsonl").unlink()
    assert compared(folder, "methods", *options) == 2
    assert compared(folder, "methods", *options, "--resume") == 0
    assert {path: path.read_bytes() for path in before} == before
    assert figures(folder, "methods")["similarity"] == found["similarity"]
    assert report(folder / "methods" / "a")["summary"]["resumed"] == COUNT
    assert compared(folder, "methods", *options, "--resume") == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["photos"], "compare needs a second side"),
        (["photos"], "--method-b, --model-b, --checkpoint-b or another option that ends in -b, or --against RUN"),
        (["out/a"], "got one finished run and needs two"),
        (["out/a", "out/b", "--method-b", "cam"], "--method-b: both sides are named already"),
        (["out/a", "photos"], "is a finished run, and others are images"),
        (["photos", "--against", "old.pth"], "this is no finished run"),
        (["photos", "--against", "nowhere"], "there is no such file"),
        (["photos", "--method-b", "gradcamm"], "Did you mean gradcam"),
        (["photos", "--method-b", "cam", "-o", "-"], "-o - "),
        (["-", "--method-b", "cam"], "reads its inputs twice"),
        (["out/a", "out/b", "--overwrite", "-o", "out/b"], "is a run"),
        (["photos", "--mean-b", "0.5,no,0.5"], "--mean-b 0.5,no,0.5: 'no' is not a number"),
        (["photos", "--input-size-b", "1.5"], "--input-size-b 1.5: sizes are whole numbers"),
        (["photos", "--view-b", "wholly"], "expected one of crop, tiles, whole, squash"),
        (["photos", "--min-similarity", "2", "--method-b", "cam"], "out of range"),
    ],
)
def test_what_cannot_be_compared(
    folder: Path,
    tmp_path: Path,
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    out = [] if "-o" in words else ["-o", str(tmp_path / "out")]
    assert main(["compare", *words, *tiny_options(), *out]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert any(said in line for line in lines)
    assert not (tmp_path / "out").exists()


def test_what_b_cannot_be_is_said_of_its_own_options(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    words = ["compare", "photos", *tiny_options(), "-o", str(tmp_path / "out")]
    assert main([*words, "--std-b", "0", "--resize-b", "70"]) == 2
    said = capsys.readouterr().err
    assert "--std-b 0,0,0: a deviation must be above 0" in said
    assert "give --std-b 1" in said
    error = of_b(CnnvizError("--std 0 and --std-b 0, --input-size 3", "--std, --no-std"), CompareOptions(std_b="0"))
    assert str(error) == "--std-b 0 and --std-b 0, --input-size 3\n--std-b, --no-std"
