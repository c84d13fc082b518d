"""``cnnviz layers`` and ``cnnviz models``: what they list, checked against the networks themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cnnviz.cli.app import main
from cnnviz.engine.layer_table import layer_table
from cnnviz.models.graph.layers import resolve
from cnnviz.models.graph.outputs import selector
from cnnviz.models.graph.trace import trace
from cnnviz.models.loading import listing, zoo
from tests.support.library import as_model
from tests.support.processes import modules_after

NETWORK = """
import torch
from torch import nn

class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 5, stride=2, padding=2)
        self.act = nn.ReLU()
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.drop = nn.Identity()
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        x = self.act(self.stem(x))
        x = self.act(self.body(self.drop(x)) + x)
        return self.fc(x.mean((2, 3)))

class Sequence(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Conv2d(6, 6, (3, 5)), nn.ReLU())
        self.classifier = nn.Sequential(nn.Flatten(), nn.LazyLinear(5))

    def forward(self, x):
        if x.sum() > 1e9:  # what tracing cannot follow
            x = x * 0
        return self.classifier(self.features(x))

def vgg():
    network = nn.Sequential(*Sequence().features, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6 * 6 * 7, 5))
    return network

def gate():
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.squeeze = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1)
            self.out = nn.Conv2d(6, 6, 3, stride=2)
            self.fc = nn.Linear(6, 2)

        def forward(self, x):
            x = self.conv(x)
            x = self.out(x * torch.sigmoid(self.squeeze(x.mean((2, 3), keepdim=True))))
            return self.fc(x.mean((2, 3)))
    return Gate()

def untraced():
    network = Sequence()
    network(torch.zeros(1, 3, 28, 36))
    return network
"""


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "net.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    return "net.py"


def rows_of(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, dict[str, Any]]:
    assert main(["layers", *args, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    named = {row["name"]: row for row in rows}
    assert len(named) == len(rows)
    return named


def test_every_column_as_computed_by_hand(network: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(capsys, "net.py:Toy", "--input-size", "3,20,30")
    assert list(rows) == ["stem", "act:0", "drop", "body.0", "body.1", "body", "act:1", "fc"]
    assert rows["stem"] == {
        "name": "stem",
        "type": "Conv2d",
        "output_shape": [8, 10, 15],
        "output_stride": [2, 2],
        "receptive_field": {"size": [5, 5], "offset": [-2, -2]},
        "global_context": False,
        "no_receptive_field": None,
        "parameters": 8 * 3 * 25 + 8,
        "default_target": False,
        "cam": "CAM reads the map that feeds the head, which is act:1",
        "layout": None,
        "grid": None,
        "other_tokens": None,
    }
    assert rows["act:1"]["receptive_field"] == {"size": [9, 9], "offset": [-4, -4]}
    assert rows["act:1"]["cam"] is True
    assert [name for name, row in rows.items() if row["default_target"]] == ["act:1"]
    assert rows["body"]["parameters"] == 8 * 8 * 9 + 8 + 16
    assert rows["fc"]["receptive_field"] is None
    assert rows["fc"]["no_receptive_field"] == "mean leaves no positions"
    assert rows["fc"]["output_shape"] == [4]
    assert rows["fc"]["output_stride"] is None


def test_where_cam_is_not_defined_every_row_says_why(network: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(capsys, "-m", "net.py:vgg", "--input-size", "3,29,37")
    assert {row["cam"] for row in rows.values()} == {rows["3"]["cam"]}
    assert "between 3 and the logits stand MaxPool2d, Flatten, Linear" in rows["3"]["cam"]
    assert rows["3"]["default_target"] is True
    assert rows["4"]["receptive_field"] == {"size": [9, 13], "offset": [0, 0]}
    assert rows["4"]["output_stride"] == [4, 4]


def test_the_table_marks_context_and_target(network: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", "net.py:gate", "--input-size", "3,20,30"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    heading = "layer type output stride receptive field from parameters"
    assert lines[0] == heading.split()
    assert lines[1] == ["conv", "Conv2d", "6x18x28", "1", "3", "0", "168"]
    assert lines[3] == ["out", "Conv2d", "6x8x13", "2", "5*", "0", "330", "<-", "default", "target"]
    assert lines[-2][:6] == ["*", "statistics", "of", "the", "whole", "map"]
    assert lines[-1] == ["CAM:", "yes,", "at", "out."]


def test_a_network_that_cannot_be_traced_is_watched(network: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of(capsys, "net.py:untraced", "--input-size", "3,28,36")
    assert rows["features.2"]["output_shape"] == [6, 11, 13]
    assert rows["features.2"]["parameters"] == 6 * 6 * 15 + 6
    assert rows["classifier.1"]["output_shape"] == [5]
    assert {row["receptive_field"] for row in rows.values()} == {None}
    assert {row["no_receptive_field"] for row in rows.values()} == {
        "the network cannot be traced, only watched while it runs"
    }
    assert [name for name, row in rows.items() if row["default_target"]] == ["features"]
    assert all(isinstance(row["cam"], str) for row in rows.values())


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches, self.qk, self.fc = nn.Conv2d(3, 8, 4, stride=4), nn.Linear(8, 8), nn.Linear(8, 3)
        self.out = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        weights = torch.softmax(self.qk(tokens) @ tokens.transpose(1, 2), -1)
        scores: Tensor = self.fc(self.out(weights @ tokens).mean(1))
        return scores


def test_a_transformer_is_listed_with_its_grid() -> None:
    rows = {row.name: row for row in layer_table(Attends().eval(), "attends", (3, 16, 24))}
    assert [name for name, row in rows.items() if row.default_target] == ["out"]
    assert rows["out"].cam is True
    assert rows["patches"].receptive_field is not None
    assert rows["patches"].receptive_field.size == (4, 4)
    listed = rows["qk"].as_dict()
    assert (listed["layout"], listed["grid"], listed["other_tokens"]) == ("tokens", [4, 6], 0)
    assert listed["receptive_field"] == {"size": [4, 4], "offset": [0, 0]}
    assert listed["global_context"] is False


def test_every_name_is_one_that_layer_options_take(network: str, capsys: pytest.CaptureFixture[str]) -> None:
    scope: dict[str, Any] = {}
    exec(NETWORK, scope)
    toy = scope["Toy"]().eval()
    graph = trace(toy, torch.rand(1, 3, 20, 30), selector(None))
    assert graph is not None
    rows = as_model(toy, (20, 30)).layer_table()
    maps = [row for row in rows if len(row.output_shape) == 3]
    assert len(maps) == 7
    for row in maps:
        layer = resolve(graph, row.name, "toy")
        assert (layer.name, layer.channels, *layer.size) == (row.name, *row.output_shape)
    assert rows == layer_table(toy, "toy", (3, 20, 30))


TWO_HEADS = """
from torch import nn

class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.early, self.late = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.four, self.six = nn.Linear(8, 4), nn.Linear(8, 6)

    def forward(self, x):
        early = self.early(x)
        return {"four": self.four(early.mean((2, 3))), "six": self.six(self.late(early).mean((2, 3)))}
"""


@pytest.mark.parametrize(("count", "layer"), [(4, "early"), (6, "late")])
def test_labels_say_which_output_the_layers_lead_to(
    count: int, layer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "heads.py").write_text(TWO_HEADS)
    (tmp_path / "names.txt").write_text("".join(f"thing {chr(97 + place)}\n" for place in range(count)))
    words = ["layers", f"{tmp_path}/heads.py:Heads", "--labels", f"{tmp_path}/names.txt", "--json"]
    assert main(words) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows if row["default_target"]] == [layer]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["net.py:Toy", "-m", "resnet18"], "Two models are named: net.py:Toy and --model resnet18."),
        (["net.py:vgg", "--input-size", "3,64,64"], "the network does not take an input of 3x64x64"),
        (["net.py:Toy", "--num-classes", "x"], "--num-classes x: expected a whole number."),
        (["net.py:Toy", "--alpha", "1"], "No such option: --alpha"),
    ],
)
def test_usage_errors(network: str, capsys: pytest.CaptureFixture[str], args: list[str], message: str) -> None:
    assert main(["layers", *args]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


@pytest.mark.parametrize("command", ["layers", "models", "targets"])
def test_help_loads_nothing_heavy(command: str) -> None:
    code, modules = modules_after(command, "--help")
    assert code == 0
    assert not {"torch", "timm", "numpy"} & set(modules)


# models


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches, and no way to the network."""

    def connect(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("it went to the network")

    monkeypatch.setattr("socket.socket.connect", connect)
    monkeypatch.setattr("socket.create_connection", connect)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache",
        lambda repository, name: next(map(str, (tmp_path / "hub").glob(f"{repository}/{name}")), None),
    )
    return tmp_path


def listed(capsys: pytest.CaptureFixture[str], *args: str) -> list[dict[str, Any]]:
    assert main(["models", *args, "--json"]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return rows


def test_weights_that_are_in_a_cache_are_said_to_be_here(caches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {(row["name"], row["weights"]): row for row in listed(capsys, "resnet18")}
    row = before["resnet18", "IMAGENET1K_V1"]
    assert (row["source"], row["default"], row["file"], row["on_this_machine"]) == ("torchvision", True, None, False)
    assert row["origin"].startswith("https://download.pytorch.org/models/resnet18-")
    hub = before["timm/resnet18", "a1_in1k"]
    assert (hub["origin"], hub["file"]) == ("https://huggingface.co/timm/resnet18.a1_in1k", None)
    file = caches / "torch" / "checkpoints" / row["origin"].rpartition("/")[2]
    cached = caches / "hub" / "timm/resnet18.a1_in1k" / "model.safetensors"
    for path in (file, cached):
        path.parent.mkdir(parents=True)
        path.touch()
    here = {(row["name"], row["weights"]): row["file"] for row in listed(capsys, "resnet18", "--here")}
    assert here == {("resnet18", "IMAGENET1K_V1"): str(file), ("timm/resnet18", "a1_in1k"): str(cached)}


@pytest.mark.parametrize(
    ("pattern", "inside", "outside"),
    [
        ("RESNET18", {"resnet18", "timm/resnet18", "timm/legacy_seresnet18"}, {"resnet50"}),
        ("resnet18", {"resnet18", "timm/resnet18"}, {"resnet50"}),
        ("resnet18*", {"resnet18", "timm/resnet18", "timm/resnet18d"}, {"timm/seresnet18"}),
        ("timm/*lite0", {"timm/tf_efficientnet_lite0"}, {"efficientnet_lite0"}),
        ("efficientnet_lite0", {"efficientnet_lite0", "timm/tf_efficientnet_lite0"}, {"alexnet"}),
        ("imagenet1k_v2", {"resnet50", "wide_resnet50_2"}, {"alexnet", "timm/resnet50"}),
    ],
)
def test_patterns(
    caches: Path, capsys: pytest.CaptureFixture[str], pattern: str, inside: set[str], outside: set[str]
) -> None:
    names = {row["name"] for row in listed(capsys, pattern)}
    assert inside <= names
    assert not outside & names


def test_each_row_is_what_the_options_take(caches: Path) -> None:
    rows = listing.listed()
    assert len(rows) == len({(row.name, row.weights) for row in rows})
    # Every twentieth, of each source; of a network exactly one row is what DEFAULT means.
    for row in [*rows[:60:6], *rows[60::150]]:
        recipe = zoo.find(row.name, row.weights or "none", 3)
        assert (recipe.source, recipe.weights) == (row.source, row.weights)
        others = [other for other in rows if other.name == row.name and other.weights is not None]
        if others:
            default = [other.weights for other in others if other.default]
            assert default == [zoo.find(row.name, "DEFAULT", 3).weights], row.name


def test_the_table_and_what_is_near(caches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "mobilenet_v3_s*"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["model", "weights", "here", "from"]
    assert lines[1].split()[:3] == ["mobilenet_v3_small", "IMAGENET1K_V1", "(default)"]
    assert lines[-1].endswith("listed, the weights of 0 are here.")
    assert main(["models", "resnet5O"]) == 2
    assert "Did you mean resnet50" in capsys.readouterr().err
