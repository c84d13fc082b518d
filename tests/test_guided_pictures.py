"""Pictures of gradients at rectifiers, and the run that writes them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnnviz import pipeline
from cnnviz.errors import CnnvizError
from cnnviz.geometry.placement import PlacedMap
from cnnviz.maps.placing import without_outliers
from cnnviz.registry import lookup
from cnnviz.render.gradient import gradient_image
from cnnviz.run.reporters import Silent
from cnnviz.settings import DrawSettings, ModelSpec, OutputSettings, RunSettings, TargetSettings
from tests.support import tiny_model
from tests.support.comparisons import closeness

close = closeness(1e-4)
TINY = f"{tiny_model.__file__}:make"


def test_the_picture_of_a_gradient_is_grey_where_it_is_zero() -> None:
    raw = np.zeros((3, 10, 10), dtype=np.float32)
    raw[0, :5] = 2.0
    raw[1, 5:] = -1.0
    raw[2, 0, 0] = 50.0  # one in a hundred of the values: beyond the limit, not the scale of the rest
    picture = gradient_image(raw, (0, 0, 10, 10), (14, 10))
    assert picture.shape == (10, 14, 3)
    limit = np.percentile([2.0] * 50 + [1.0] * 50 + [50.0], 99)
    assert limit == 2.0
    assert picture[2, 5].tolist() == [255, 128, 128]
    assert picture[7, 5].tolist() == [128, round(128 - 127 / limit), 128]
    assert picture[0, 0, 2] == 255
    assert (picture[:, 10:] == 128).all()
    one = gradient_image(raw[:1], (0, 0, 10, 10), (10, 10))
    assert (one[:5] == 255).all()
    assert (one[5:] == 128).all()
    assert (gradient_image(0 * raw, (0, 0, 10, 10), (10, 10)) == 128).all()


def test_a_run_writes_the_gradient_and_the_four_panels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    spec = lookup.find_method("guided")
    notes: list[str] = []

    def settings(method: str, save: tuple[str, ...], **options: object) -> RunSettings:
        params = lookup.find_method(method).resolve_params(options).to_dict()
        return RunSettings(
            command=spec.command,
            inputs=(str(tmp_path / "a.png"),),
            model=ModelSpec(model=TINY, input_size=(3, 32, 48), view="squash"),
            target=TargetSettings(method=method, params=params, classes=("top:2",)),
            draw=DrawSettings(save=save),
            output=OutputSettings(str(tmp_path / method)),
        )

    class Listening(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    pipeline.run(settings("guided", ("heatmap", "raw", "panel"), with_gradcam=True), Listening())
    record = json.loads((tmp_path / "guided" / "records.jsonl").read_text())
    # The product with Grad-CAM depends on the class; guided backpropagation alone, which says so, does not.
    assert [len(record["explanations"]), sum("hardly depend" in note for note in notes)] == [2, 0]
    for row in record["explanations"]:
        assert set(row["files"]) == {"heatmap", "raw", "panel", "gradient"}
        raw = np.load(tmp_path / "guided" / row["files"]["raw"])
        product = raw["gradient"] * raw["gradcam"][None]
        np.testing.assert_allclose(raw["raw"], product, atol=1e-6 * np.abs(product).max())
        with Image.open(tmp_path / "guided" / row["files"]["gradient"]) as picture:
            drawn = np.asarray(picture)
        np.testing.assert_array_equal(drawn, gradient_image(raw["raw"], tuple(raw["rect"]), (60, 40)))
        assert row["rule"] == "guided"
        assert row["layer"]
    assert "caveat" not in json.loads((tmp_path / "guided" / "report.json").read_text())["summary"]
    assert "Adebayo" in spec.caveat_with(spec.resolve_params({}))
    with Image.open(tmp_path / "guided" / record["explanations"][0]["files"]["panel"]) as panel:
        width, height = panel.size
    assert width > 4 * 150
    assert height > 2 * 110
    pipeline.run(settings("saliency", ("gradient",)), Listening())
    record = json.loads((tmp_path / "saliency" / "records.jsonl").read_text())
    assert set(record["explanations"][0]["files"]) == {"gradient"}
    with pytest.raises(CnnvizError, match="no gradient at the image"):
        pipeline.run(settings("gradcam", ("gradient",)), Listening())


def test_overlays_of_single_pixels_are_not_scaled_by_outliers() -> None:
    values = np.full((10, 20), 1.0, dtype=np.float32)
    values[0, 0] = -1000.0
    shown = without_outliers(PlacedMap(values, (0, 0, 20, 10), True))
    assert shown.values[5, 5] == 1
    assert shown.values[0, 0] == pytest.approx(-np.percentile(np.abs(values), 99))
    assert -shown.values[0, 0] < 2
    assert not without_outliers(PlacedMap(0 * values, (0, 0, 20, 10), True)).values.any()
