"""``cnnviz top-patches``: against brute force, against pictures whose contents are known, and on a grey network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from cnnviz.cli import app
from cnnviz.errors import CnnvizError
from cnnviz.models.loading.load import load
from cnnviz.models.preprocess import normalize, prepare
from cnnviz.run.named_folders import FOLDERS_AS_LABELS
from cnnviz.settings import ModelSpec
from cnnviz.studies.top_patches.review import Review
from cnnviz.studies.top_patches.top_units import TopUnits
from cnnviz.studies.top_patches.unit_changes import changes
from cnnviz.studies.unit_selection import parse_units
from tests.support import digits, tiny_model
from tests.support.patches import CORNERS, NETWORKS, dotted, run
from tests.support.pictures import photograph
from tests.support.runs import TINY


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    for index in range(11):
        picture = photograph(index if index != 7 else 2)  # two are equal: the first must win
        Image.fromarray(picture).save(root / f"{index:02d}.png")
    return root


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    file = tmp_path_factory.mktemp("networks") / "nets.py"
    file.write_text(NETWORKS)
    mean, std = (0.0,) * 3, (1.0,) * 3
    return ModelSpec(model=f"{file}:fixed", input_size=(3, 64, 64), resize=80, mean=mean, std=std)


def activations(photos: Path) -> NDArray[np.float32]:
    """[N, 12, 8, 8] of layer "3" of the tiny network, which is run as it is, one image at a time."""
    module, rows = tiny_model.make(), []
    spec = load(TINY).preprocess
    for file in sorted(photos.iterdir()):
        pixels, _ = prepare(np.asarray(Image.open(file)), spec)
        with torch.no_grad():
            rows.append(module[:4](normalize(pixels[None], spec))[0].numpy())  # type: ignore[index]
    return np.stack(rows)


@pytest.mark.parametrize("batch", [1, 4, 11])
def test_the_report_equals_brute_force(photos: Path, tmp_path: Path, batch: int) -> None:
    report, _ = run(photos, tmp_path, batch=batch, p={"units": "all", "patches": 5})
    values = activations(photos)
    names = [str(file) for file in sorted(photos.iterdir())]
    assert [row["unit"] for row in report["units"]] == list(range(12))
    for row in report["units"]:
        mine = values[:, row["unit"]].reshape(11, -1)
        order = np.argsort(-np.round(mine.max(1), 4), kind="stable")[:5]
        patches = row["patches"]
        assert [p["path"] for p in patches] == [names[i] for i in order]
        assert [p["rank"] for p in patches] == [1, 2, 3, 4, 5]
        assert [p["activation"] for p in patches] == pytest.approx(mine[order].max(1).tolist(), abs=1e-4)
        assert [p["position"][0] * 8 + p["position"][1] for p in patches] == mine[order].argmax(1).tolist()
        assert row["images_fired"] == int((mine.max(1) > 0).sum())
    assert report["summary"]["patches_not_reproduced"] == 0


def test_receptive_fields_are_in_pixels_of_the_image(photos: Path, tmp_path: Path) -> None:
    """Two convolutions (5, stride 4, padding 2; 3, stride 2, padding 1): 13 pixels every 8 from -6. Images of 90 x 70
    are resized to 82 x 64, of which 64 columns from the 9th on are kept."""
    report, _ = run(photos, tmp_path, p={"units": "all", "patches": 3})
    across, down = 90 / 82, 70 / 64
    for patch in (patch for row in report["units"] for patch in row["patches"]):
        y, x = (8 * place - 6 for place in patch["position"])
        whole = [(9 + x) * across, y * down, 13 * across, 13 * down]
        assert patch["receptive_field_unclipped_xywh"] == pytest.approx(whole, abs=1e-3)
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + 13, 64), min(y + 13, 64)
        seen = [(9 + x0) * across, y0 * down, (x1 - x0) * across, (y1 - y0) * down]
        assert patch["receptive_field_xywh"] == pytest.approx(seen, abs=1e-3)


def test_several_patches_of_an_image_do_not_overlap(photos: Path, tmp_path: Path) -> None:
    report, _ = run(photos, tmp_path, p={"units": "0-3", "patches": 9, "per_image": 3, "overlap": 0.0})
    for row in report["units"]:
        boxes: dict[str, list[list[int]]] = {}
        for patch in row["patches"]:
            boxes.setdefault(patch["path"], []).append(patch["position"])
        assert max(map(len, boxes.values())) in (2, 3)
        for places in boxes.values():
            for i, a in enumerate(places):
                for b in places[:i]:  # 13 pixels every 8: neighbours overlap, those two apart do not
                    assert max(abs(a[0] - b[0]), abs(a[1] - b[1])) >= 2


@pytest.fixture(scope="module")
def dots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dots")
    for index, corner in enumerate([(40, 30), (150, 120), (90, 70), (60, 110)]):
        dotted(root, (250 - index, 20, 20), f"red/{index}.png", corner)
    for index, corner in enumerate([(120, 40), (100, 100), (70, 60)]):
        dotted(root, (20, 20, 250 - index), f"blue/{index}.png", corner)
    return root


def test_fields_and_crops_sit_on_what_the_unit_likes(fixed: ModelSpec, dots: Path, tmp_path: Path) -> None:
    options = {"units": "0,1,2", "patches": 3, "crops": True, "patch_gradient": "saliency"}
    report, said = run(dots, tmp_path, fixed, layers=("act",), p=options)
    assert said.notes.count(FOLDERS_AS_LABELS) == 1
    for row, colour, channel in zip(report["units"], ("red", "blue"), (0, 2), strict=False):
        assert len(row["patches"]) == 3
        for patch in row["patches"]:
            kind, number = Path(patch["path"]).parts[-2:]
            assert kind == colour
            left, top = CORNERS[colour][int(number[0])]
            x, y, w, h = patch["receptive_field_xywh"]
            assert left - 1 <= x <= x + w <= left + 15
            assert top - 1 <= y <= y + h <= top + 15
            crop = np.asarray(Image.open(tmp_path / "crops" / f"act.{row['unit']}.{patch['rank']}.png"))
            middle = crop[crop.shape[0] // 2, crop.shape[1] // 2].astype(int)
            assert middle[channel] > 200
            assert middle.sum() < 320
        strip = np.asarray(Image.open(tmp_path / row["file"])).astype(int)
        tile, below = strip[56:216, 10:170], strip[220:380, 10:170]
        assert tile[80, 80, channel] > 200
        assert (tile == 255).all(axis=2).sum() > 400  # the rectangle and the value
        lit = np.argwhere(below[:, :, 0] > 200)  # the gradient is in the field, in the middle, and nowhere else
        assert len(lit)
        assert np.abs(lit.mean(0) - 79.5).max() < 3
    assert report["units"][0]["classes"] == {"label": "red", "purity": 1.0, "entropy": 0.0, "count": 3}
    assert report["units"][1]["classes"]["label"] == "blue"
    assert [row["unit"] for row in report["selectivity"]] == [0, 1]


def test_units_that_never_fire_are_marked_and_not_shown(fixed: ModelSpec, dots: Path, tmp_path: Path) -> None:
    report, _ = run(dots, tmp_path, fixed, layers=("act",), p={"units": "0,2", "patches": 5})
    red, dead = report["units"]
    assert (dead["activated"], dead["max"], dead["patches"], dead["images_fired"]) == (False, 0.0, [], 0)
    assert report["summary"]["units_never_fired"] == 1
    strip = np.asarray(Image.open(tmp_path / dead["file"]))
    assert (strip[56:-10, 10:170] == 232).all()
    # Of five patches of unit 0 one is no activation: it is listed with its value, 0, and not drawn.
    assert [patch["activation"] > 0 for patch in red["patches"]] == [True] * 4 + [False]
    assert red["images_fired"] == 4
    strip = np.asarray(Image.open(tmp_path / red["file"]))
    assert (strip[56:-10, 10 + 4 * 164 :][:, :160] == 232).all()
    assert not (strip[56:-10, 10 + 3 * 164 :][:, :160] == 232).all()


def test_what_cannot_be_reproduced_is_left_out(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, _ = run(photos, tmp_path / "a", p={"units": "3", "patches": 4})
    load = Review._load

    def changed(self: Review, ref: Any) -> Any:
        found: Any = load(self, ref)
        if ref.uri == before["units"][0]["patches"][1]["path"]:
            found.pixels.copy_(found.pixels.flip(0, 2))
        return found

    monkeypatch.setattr(Review, "_load", changed)
    after, reporter = run(photos, tmp_path / "b", p={"units": "3", "patches": 4})
    assert [patch["rank"] for patch in after["units"][0]["patches"]] == [1, 3, 4]
    assert after["summary"]["patches_not_reproduced"] == 1
    assert any("not reproduced, and left out" in note for note in reporter.notes)


def test_images_that_vanish_are_left_out(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cnnviz.errors import ImageError

    monkeypatch.setattr(Review, "_load", lambda self, ref: ImageError("missing", "gone"))
    report, reporter = run(photos, tmp_path, p={"units": "3", "patches": 4})
    assert report["units"][0]["patches"] == []
    assert report["summary"]["patches_not_reproduced"] == 4
    assert any("cannot be read again: gone" in note for note in reporter.notes)


def test_top_and_random_units(photos: Path, tmp_path: Path) -> None:
    values = activations(photos).reshape(11, 12, -1).max(2)
    best = np.maximum(np.sort(values, axis=0)[::-1][:4], 0).mean(0)
    report, _ = run(photos, tmp_path, p={"units": "top:3", "patches": 4})
    assert [row["unit"] for row in report["units"]] == np.argsort(-best, kind="stable")[:3].tolist()
    assert report["summary"]["units_of_layer"] == 12
    report, _ = run(photos, tmp_path, seed=1, p={"units": "random:4"})
    drawn = [parse_units("random:4", 12, "3").followed(12, seed) for seed in (1, 1, 2)]
    assert tuple(row["unit"] for row in report["units"]) == drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 4


def test_a_bounded_default_layer_is_ranked_before_its_bound(fixed: ModelSpec, dots: Path, tmp_path: Path) -> None:
    """ReLU6 of values times 100 holds every red patch at 6; before it the reddest is the first."""
    model = ModelSpec(model=fixed.model.replace(":fixed", ":bounded"), input_size=(3, 64, 64), resize=80,
                      mean=(0.0,) * 3, std=(0.01,) * 3)  # fmt: skip
    report, reporter = run(dots, tmp_path, model, layers=(), p={"units": "0", "patches": 2, "patch_gradient": "guided"})
    [unit] = report["units"]
    assert unit["layer"] == "conv"
    assert unit["patches"][0]["activation"] > 6
    assert [Path(patch["path"]).name for patch in unit["patches"]] == ["0.png", "1.png"]
    assert any("before that activation (conv)" in note for note in reporter.notes)
    # The values are not those of `act`, where other commands look: record, summary and picture say so.
    summary = report["summary"]
    assert (unit["pre_activation"], summary["pre_activation"], summary["default_layer"]) == (True, True, "act")
    page = (tmp_path / "index.html").read_text()
    assert "conv (act before its activation)" in page
    assert f"up to {unit['max']:.3g} before the activation, fires on" in page
    held, _ = run(dots, tmp_path, model, layers=("act",), p={"units": "0", "patches": 2, "patch_gradient": "guided"})
    assert [patch["activation"] for patch in held["units"][0]["patches"]] == [6.0, 6.0]
    assert (held["units"][0]["pre_activation"], held["summary"]["pre_activation"]) == (False, False)
    assert "default_layer" not in held["summary"]
    strip = np.asarray(Image.open(tmp_path / held["units"][0]["file"]))[220:380, 10:170]
    assert strip.std() > 5  # the gradient passes the unit's own bound


def test_a_network_that_cannot_be_traced_shows_whole_images(fixed: ModelSpec, dots: Path, tmp_path: Path) -> None:
    model = ModelSpec(model=fixed.model.replace(":fixed", ":asking"), input_size=(3, 64, 64), resize=80,
                      mean=(0.0,) * 3, std=(1.0,) * 3)  # fmt: skip
    report, reporter = run(
        dots, tmp_path, model, layers=("act",), p={"units": "0", "patches": 2, "patch_gradient": "guided"}
    )
    plain, _ = run(dots, tmp_path / "traced", fixed, layers=("act",), p={"units": "0", "patches": 2})
    for here, there in zip(report["units"][0]["patches"], plain["units"][0]["patches"], strict=True):
        assert (here["path"], here["position"]) == (there["path"], there["position"])
        assert here["activation"] == pytest.approx(there["activation"], rel=1e-4)
    # 64 of the 80 rows and 100 columns that 160 x 200 pixels were resized to.
    assert report["units"][0]["patches"][0]["receptive_field_xywh"] == pytest.approx([36, 16, 128, 128])
    assert any("whole images are shown" in note for note in reporter.notes)


def test_against_another_model(photos: Path, tmp_path: Path) -> None:
    state = tiny_model.make().state_dict()
    state["3.weight"][5] = -state["3.weight"][5]
    torch.save(state, tmp_path / "other.pt")
    other = ModelSpec(model=TINY.model, checkpoint=str(tmp_path / "other.pt"), input_size=(3, 64, 64), resize=64)
    options = {"units": "2,5,8", "patches": 4}
    before, _ = run(photos, tmp_path / "a", other, p=options)
    after, _ = run(photos, tmp_path / "b", p={**options, "compare_to": str(tmp_path / "a")})
    assert [row["unit"] for row in after["changes"]] == [5, 2, 8]
    then, now = ([p["path"] for p in report["units"][1]["patches"]] for report in (before, after))
    assert after["changes"][0]["overlap"] == len(set(then) & set(now)) / len(set(then) | set(now)) < 1
    assert [row["overlap"] for row in after["changes"][1:]] == [1.0, 1.0]
    assert after["summary"]["against"]["units"] == 3


def test_changes_by_hand() -> None:
    units = [{"unit": number, "patches": [{"path": path} for path in paths]} for number, paths in
             ((0, "abc"), (1, "abcd"), (2, ""), (3, "ab"), (4, "aab"))]  # fmt: skip
    found = changes(units, {0: list("cba"), 1: list("axyz"), 2: [], 4: list("ba")})
    assert [row["unit"] for row in found] == [1, 0, 4, 2]
    assert [row["overlap"] for row in found] == [1 / 7, 1.0, 1.0, None]
    assert [row["mean_rank_change"] for row in found] == [0.0, 4 / 3, 1.0, None]
    assert (found[0]["new"], found[0]["gone"]) == (list("bcd"), list("xyz"))


@pytest.mark.parametrize(
    ("layer", "path", "said"),
    [("3", "b", "no report can be read"), ("0", "a", "it has units of 3, not of 0"), ("3", "plain", "no report of")],
)
def test_reports_that_cannot_be_compared(photos: Path, tmp_path: Path, layer: str, path: str, said: str) -> None:
    (tmp_path / "plain").write_text("{}")
    run(photos, tmp_path / "a", p={"units": "1", "patches": 2})
    with pytest.raises(CnnvizError, match=said):
        run(photos, tmp_path / "c", layers=(layer,), p={"units": "1", "compare_to": str(tmp_path / path)})


def test_the_grey_digits(tmp_path: Path) -> None:
    model = digits.trained(tmp_path)
    folder = digits.write(tmp_path / "digits", 60)
    report, _ = run(
        folder, tmp_path / "out", model, layers=("4",), p={"units": "0-9", "patches": 5, "patch_gradient": "guided"}
    )
    assert len(report["units"]) == 10
    alive = [row for row in report["units"] if row["activated"]]
    # Units of a trained network agree more with the ten classes than drawing five of sixty digits does: 0.35.
    assert np.mean([row["classes"]["purity"] for row in alive]) > 0.45
    assert all(row["classes"]["label"] in "0123456789" for row in alive)
    strip = np.asarray(Image.open(tmp_path / "out" / alive[0]["file"]))
    assert (strip[220:380, 10:170, 0] == strip[220:380, 10:170, 2]).all()  # grey
    assert strip[220:380, 10:170].std() > 5
    assert (tmp_path / "out" / "sheet.png").exists()


def test_pictures_differ_by_rule_and_are_the_same_twice(photos: Path, tmp_path: Path) -> None:
    seen = {}
    for rule in ("guided", "deconvnet", "saliency", "guided "):
        run(photos, tmp_path, p={"units": "3", "patches": 2, "patch_gradient": rule.strip()})
        seen[rule] = (tmp_path / "units" / "3.3.png").read_bytes()
    assert seen["guided"] == seen["guided "]
    assert len(set(seen.values())) == 3


def test_the_command_line(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["-m", TINY.model, "--input-size", "64", "--resize", "64", "-o", str(tmp_path / "o"), "-l", "3"]
    assert (
        app.main(["top-patches", str(photos), "--units", "1,2", "--patch-gradient", "guided", "--patches", "3", *words])
        == 0
    )
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert report["command"] == "top-patches"
    assert report["options"]["patch_gradient"] == "guided"
    assert report["summary"]["receptive_field"]["size"] == [13, 13]
    page = (tmp_path / "o" / "index.html").read_text()
    assert "sheet.png" in page
    assert "units/3.1.png" in page
    assert app.main(["top-patches", str(photos), "--units", "99", *words, "--overwrite"]) == 2
    assert "unit 99 does not exist" in capsys.readouterr().err


def test_selective_units(photos: Path, tmp_path: Path) -> None:
    """Those whose strongest images stand out: from the definition, over all images."""
    largest = np.maximum(activations(photos).reshape(11, 12, -1).max(2), 0).astype(np.float64)
    strength = np.sort(largest, axis=0)[::-1][:4].mean(0)
    score = (strength - largest.mean(0)) / np.maximum(largest.std(0), 1e-12)
    report, _ = run(photos, tmp_path, p={"units": "selective:3", "patches": 4})
    assert [row["unit"] for row in report["units"]] == np.lexsort((-strength, -score))[:3].tolist()


def test_units_that_fire_alike_or_never_are_not_selective() -> None:
    top = TopUnits(3, 2)
    for number, value in enumerate((1.0, 5.0, 1.0, 1.0)):
        values = np.array([[value], [2.0], [-1.0]], dtype=np.float32)
        top.fold(number, values, np.zeros((3, 1), dtype=np.int64))
    found = top.selectivity()
    assert found[0] == pytest.approx((3.0 - 2.0) / np.std([1, 5, 1, 1]))
    assert found[1:].tolist() == [0.0, 0.0]
