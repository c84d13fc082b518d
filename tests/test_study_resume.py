"""Which studies continue, and that none promises what it has not; files of layers with odd names."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from cnnviz import pipeline
from cnnviz.cli import app
from cnnviz.errors import CnnvizError
from cnnviz.io.store import Store
from cnnviz.registry import lookup
from cnnviz.registry.specs import StudySpec
from cnnviz.settings import ModelSpec, OutputSettings, RunSettings, RuntimeSettings, TargetSettings
from tests.support.pictures import photograph
from tests.support.runs import Quiet, report, tiny_options

NETWORK = """
from torch import nn
def make():
    net = nn.Sequential()
    for name, part in (("a/b", nn.Conv2d(3, 4, 3)), ("a_b", nn.Conv2d(4, 4, 3)), ("relu", nn.ReLU()),
                       ("pool", nn.AdaptiveAvgPool2d(1)), ("flat", nn.Flatten()), ("fc", nn.Linear(4, 3))):
        net.add_module(name, part)
    return net.eval()
"""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(2):
        Image.fromarray(photograph(index, (40, 36))).save(folder / f"{index}.png")
    return folder


def test_those_that_continue() -> None:
    studies = [spec for spec in lookup.all_entries() if isinstance(spec, StudySpec)]
    continuing = {spec.command for spec in studies if "resume" not in spec.unavailable_options()}
    assert continuing >= {"adversarial", "classmap", "activations", "dream", "synthesize"}
    assert not continuing & {"embed", "top-patches", "filters"}


def test_what_is_said_where_nothing_can_be_continued(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that is not empty, a full disk, Ctrl-C."""
    (tmp_path / "net.py").write_text(NETWORK)
    out = tmp_path / "o"
    words = ["filters", "-m", f"{tmp_path / 'net.py'}:make", "--input-size", "32", "-o", str(out)]
    assert app.main(words) == 0
    capsys.readouterr()
    assert app.main(words) == 2
    said = capsys.readouterr().err
    assert "it holds a run of cnnviz filters" in said
    assert "--overwrite" in said
    assert "--resume" not in said
    real = os.replace

    def full(source: str, target: str) -> None:
        if target.endswith("png"):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    assert app.main([*words, "--overwrite"]) == 2
    assert "then repeat the command with --overwrite" in capsys.readouterr().err

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Store, "write", interrupted)
    assert app.main([*words, "--overwrite"]) == 130
    assert "interrupted; this command begins again, with --overwrite" in capsys.readouterr().err
    assert report(out)["summary"]["interrupted"] is True


@pytest.mark.parametrize(
    ("command", "params"), [("activations", {"channel": "1"}), ("filters", {}), ("top-patches", {"crops": True})]
)
def test_layers_with_odd_names_have_files_of_their_own(
    command: str, params: dict[str, object], photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "net.py").write_text(NETWORK)
    layers = ("a/b",) if command == "top-patches" else ("a/b", "a_b")
    spec = lookup.find_entry(command)
    settings = RunSettings(
        command,
        () if command == "filters" else (str(photos),),
        ModelSpec(model=f"{tmp_path / 'net.py'}:make", input_size=(3, 32, 32)),
        TargetSettings(method=command, params=spec.resolve_params(params).to_dict(), layers=layers),
        RuntimeSettings(batch_size=2),
        output=OutputSettings(str(tmp_path / "o")),
    )
    assert pipeline.run(settings, Quiet()).exit_code == 0
    found = report(tmp_path / "o")
    assert found["files"]
    assert all((tmp_path / "o" / name).is_file() for name in found["files"])
    assert all(name.count("/") <= 1 for name in found["files"])
    if command == "filters":
        assert found["files"] == ["filters.a_b.png", "filters.a_b~2.png"]
    if command == "activations":
        shown = [row["enlarged"][0]["file"] for image in found["images"] for row in image["layers"]]
        assert len(set(shown)) == len(shown) == 4


def test_a_study_says_before_the_first_image_what_stands_in_its_way(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "o" / "sheet.png").mkdir(parents=True)
    settings = RunSettings(
        "top-patches",
        (str(photos),),
        ModelSpec(model=f"{tmp_path / 'net.py'}:make", input_size=(3, 32, 32)),
        TargetSettings(method="top-patches", params=lookup.find_entry("top-patches").resolve_params({}).to_dict()),
        output=OutputSettings(str(tmp_path / "o"), overwrite=True),
    )
    told = Quiet()
    with pytest.raises(CnnvizError, match=r"a folder is called 'sheet\.png'"):
        pipeline.run(settings, told)
    assert told.rows == []


@pytest.mark.parametrize("key", ["linf", "gradient_is_zero"])
def test_records_of_another_version_are_no_internal_error(
    key: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What an older version did not find out is not guessed, and its folder stays as it is."""
    out = tmp_path / "o"
    words = ["adversarial", str(photos), *tiny_options(), "--steps", "2", "-o", str(out)]
    assert app.main(words) == 0
    lines = out / "records.jsonl"
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    del rows[0][key]
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = lines.read_bytes()
    capsys.readouterr()
    assert app.main([*words, "--resume"]) == 2
    said = capsys.readouterr().err
    assert f"has no '{key}': it is of another version of cnnviz" in said
    assert "--overwrite" in said
    assert lines.read_bytes() == before
