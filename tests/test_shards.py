"""Shares of the inputs: which images are in them, what a scheduler says, and that joined they are the one run."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from cnnviz import pipeline
from cnnviz.cli.app import main
from cnnviz.errors import CnnvizError
from cnnviz.io.shards import Shard, assigned_shard, parse_shard
from tests.support import tiny_model
from tests.support.colour_photos import MODEL as COLOURS
from tests.support.pictures import photograph
from tests.support.runs import Quiet, settings

MODEL = ["-m", f"{tiny_model.__file__}:make", "--input-size", "32", "--resize", "32", "-b", "1"]
COUNT = 7


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shares") / "photos"
    for index in range(COUNT):
        place = folder / f"class {index % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph(index, (56, 48))).save(place / f"{index}.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (folder / "notes.txt").write_text("no image")
    return folder


def explain(words: list[str], out: Path) -> int:
    return main([*words, "-o", str(out), "-q"])


def contents(out: Path) -> dict[str, Any]:
    """All files of a run but those of its shares; of the report and the page without times, places, and what
    came out of a cache."""
    found: dict[str, Any] = {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and not path.relative_to(out).parts[0].startswith("shard-")
    }
    report = json.loads(found["report.json"])
    for name in ("seconds", "images_per_second", "timed", "seconds_per_map", "pass", "cache"):
        report["summary"].pop(name, None)
    report["summary"].get("audit", {}).pop("seconds", None)
    if "embedding" in report["summary"]:
        report["summary"]["embedding"].pop("seconds_arranging")
    report["options"].pop("out")
    page = re.sub(r" --out [^\s<]+", "", found["index.html"].decode())
    for name in ("time", "images per second"):
        page = re.sub(rf"<div><dt>{name}</dt><dd>.*?</dd></div>\n", "", page)
    return {**found, "report.json": report, "index.html": page}


def test_a_share_is_told_by_the_name_alone() -> None:
    names = [f"folder/{index}.jpg" for index in range(500)] + ["bär.png", "a\udce9.png"]
    for count in (1, 2, 3, 8, 600):
        shards = [Shard(index, count) for index in range(1, count + 1)]
        for name in names:
            digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
            expected = int(digest[:16], 16) % count + 1
            assert [shard.index for shard in shards if shard.has(name)] == [expected]
    sizes = [sum(Shard(index, 8).has(name) for name in names) for index in range(1, 9)]
    assert min(sizes) > 30
    assert [Shard(2, 12).folder, str(Shard(2, 12))] == ["shard-02-of-12", "2/12"]


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "a/b", "-1/4", "1/4/2", "", "²/4"])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(CnnvizError, match="--shard"):
        parse_shard(text)


SLURM = {"SLURM_JOB_ID": "71"}
ARRAY = {**SLURM, "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_MAX": "3"}
STEPS = {**SLURM, "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_MAX": "7"}


@pytest.mark.parametrize(
    ("environment", "share"),
    [
        ({**ARRAY, "SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_STEP": "1"}, "1/4"),
        ({**ARRAY, "SLURM_ARRAY_TASK_ID": "3", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, "4/4"),
        ({**STEPS, "SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_STEP": "2"}, "3/4"),
        ({**SLURM, "SLURM_PROCID": "2", "SLURM_NTASKS": "6", "SLURM_STEP_NUM_TASKS": "6"}, "3/6"),
        # Two tasks of each job of an array.
        ({**ARRAY, "SLURM_ARRAY_TASK_ID": "1", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, "4/8"),
        ({"JOB_COMPLETION_INDEX": "0", "JOB_COMPLETIONS": "5"}, "1/5"),
        ({"GITLAB_CI": "true", "CI_NODE_INDEX": "5", "CI_NODE_TOTAL": "5"}, "5/5"),
        ({"CIRCLE_NODE_INDEX": "0", "CIRCLE_NODE_TOTAL": "3"}, "1/3"),
        ({"BUILDKITE_PARALLEL_JOB": "1", "BUILDKITE_PARALLEL_JOB_COUNT": "2"}, "2/2"),
        ({"BITBUCKET_PARALLEL_STEP": "0", "BITBUCKET_PARALLEL_STEP_COUNT": "2"}, "1/2"),
        ({"SEMAPHORE_JOB_INDEX": "1", "SEMAPHORE_JOB_COUNT": "2"}, "1/2"),
    ],
)
def test_what_schedulers_say(environment: dict[str, str], share: str) -> None:
    assert str(assigned_shard(environment)[0]) == share


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "Looked for SLURM_ARRAY_TASK_ID, SLURM_PROCID, JOB_COMPLETION_INDEX, CI_NODE_INDEX"),
        ({"GITLAB_CI": "true", "CI_NODE_TOTAL": "1"}, "no scheduler is known here"),
        ({"JOB_COMPLETION_INDEX": "1"}, "Set JOB_COMPLETIONS to the number of jobs"),
        ({"CIRCLE_NODE_INDEX": "3", "CIRCLE_NODE_TOTAL": "3"}, "say 4 of 3"),
        ({"CIRCLE_NODE_INDEX": "x", "CIRCLE_NODE_TOTAL": "3"}, "CIRCLE_NODE_INDEX is 'x': expected a number"),
        ({**STEPS, "SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_STEP": "1"}, "from 1 to 7, are no range"),
        ({**SLURM, "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, "Start it with srun"),
    ],
)
def test_what_schedulers_do_not_say(environment: dict[str, str], said: str) -> None:
    with pytest.raises(CnnvizError) as error:
        assigned_shard(environment)
    assert said in str(error.value)


COMMANDS = {
    "gradcam": ["gradcam", "--save", "overlay,heatmap,raw,panel", "-c", "top:2"],
    "labels": ["layercam", "-c", "folder", "--metric", "deletion", "--sanity"],
    "evaluate": ["evaluate", "--method", "gradcam,saliency", "--preset", "small"],
    "adversarial": ["adversarial", "--attack", "fgsm", "--epsilon", "8/255", "--curve", "0,4"],
    "classmap": ["classmap", "--save", "overlay,raw", "-c", "all"],
    "activations": ["activations", "--raw", "--channel", "1,3"],
    "embed": ["embed", "--neighbours", "2"],
    "top-patches": ["top-patches", "--units", "all", "--patches", "4", "--per-image", "2", "--crops"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_shares_joined_are_the_one_run(command: str, photos: Path, tmp_path: Path) -> None:
    words = [*COMMANDS[command], str(photos), *MODEL]
    if words[0] == "layercam":
        words[:1] = ["gradcam", "--variant", "layercam"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert explain(words, whole) == 3  # one is broken
    codes = [explain([*words, "--shard", f"{index}/3"], parts) for index in (2, 3, 1)]
    assert sorted(codes) == [0, 0, 3]
    assert main(["merge", str(parts), "-q"]) == 3
    expected, found = contents(whole), contents(parts)
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name] == expected[name], name


def test_an_audit_and_more_shares_than_images(
    rectangles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        f"version: 1\nimages: {rectangles}\nmin_images: 1\nmodel: {{labels: {rectangles.parent / 'labels.txt'}}}\n"
        f"truth: {rectangles.parent / 'truth.json'}\nmethod: cam\nchecks:\n"
        "  - {name: looks, kind: inside, min_energy: 0.5}\n"
    )
    words = ["audit", str(policy), *COLOURS, "-b", "1"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert explain(words, whole) == 0
    for index in range(5):
        monkeypatch.setenv("CIRCLE_NODE_INDEX", str(index))
        monkeypatch.setenv("CIRCLE_NODE_TOTAL", "5")
        assert explain([*words, "--shard", "auto"], parts) == 0
    counts = [json.loads(path.read_text())["summary"]["inputs"] for path in parts.glob("shard-*/report.json")]
    assert len(counts) == 5
    assert 0 in counts
    assert explain(["merge", str(parts)], tmp_path / "merged") == 0
    assert contents(tmp_path / "merged") == contents(whole)


def _summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())["summary"]
    return found


def test_a_share_that_did_not_end(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C in one share; joined once it was continued. Pictures are of one file or copies, never shared writing."""
    parts = tmp_path / "parts"
    for index in (1, 2):
        asked = settings(photos, parts / f"shard-{index}-of-2", shard=f"{index}/2")
        result = pipeline.run(asked, Quiet(interrupt_after=2 if index == 2 else 0))
    assert result.exit_code == 130
    assert main(["merge", str(parts)]) == 2
    assert "share 2/2 has not ended" in capsys.readouterr().err
    assert not (parts / "report.json").exists()
    pipeline.run(settings(photos, parts / "shard-2-of-2", shard="2/2", output={"resume": True}), Quiet())
    second = parts / "shard-2-of-2" / "report.json"
    known = json.loads(second.read_text())
    # Wherever Ctrl-C came: as if one image had been left.
    known["summary"].update(seconds=7.0, timed=1)
    second.write_text(json.dumps(known))
    assert main(["merge", str(parts), "-o", str(tmp_path / "merged"), "-q"]) == 3
    pipeline.run(settings(photos, tmp_path / "whole"), Quiet())
    expected = contents(tmp_path / "whole")
    assert contents(tmp_path / "merged") == expected
    # Times are those of the shares; of the one that was continued, of its last part.
    first, merged = _summary(parts / "shard-1-of-2"), _summary(tmp_path / "merged")
    assert merged["seconds"] == pytest.approx(first["seconds"] + 7, abs=0.002)
    assert merged["timed"] == first["explained"] + first["failed"] + 1 < merged["explained"] + merged["failed"]
    assert merged["images_per_second"] == pytest.approx(merged["timed"] / merged["seconds"], rel=0.02)
    shutil.rmtree(parts)
    assert contents(tmp_path / "merged") == expected


@pytest.fixture(scope="module")
def shares(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shares of a run, and others that do not belong to it."""
    base = tmp_path_factory.mktemp("parts")
    torch.save({name: 2 * value for name, value in tiny_model.make().state_dict().items()}, base / "other.pth")
    words = ["gradcam", str(photos), *MODEL, "--save", "raw"]
    for name, more in (
        ("run", ["--shard", "1/2"]),
        ("run", ["--shard", "2/2"]),
        ("three", ["--shard", "3/3"]),
        ("options", ["--shard", "2/2", "-c", "1"]),
        ("weights", ["--shard", "2/2", "--checkpoint", str(base / "other.pth")]),
        ("whole", []),
    ):
        assert explain([*words, *more], base / name) in (0, 3)
    return base


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run/shard-1-of-2"], "1 of 2 shares is missing: 2"),
        (["run/shard-1-of-2", "copy"], "Share 1/2 is there twice"),
        (["run/shard-1-of-2", "run/shard-2-of-2"], "Nothing says where the whole run goes"),
        (["run/shard-1-of-2", "three"], "shares of 2 and of 3"),
        (["run/shard-1-of-2", "options"], "begun otherwise: --class pred in the one, --class 1 in the other"),
        (["run/shard-1-of-2", "weights"], "begun otherwise: no --checkpoint in the one, --checkpoint "),
        (["whole"], "is the run of no share"),
        (["nowhere"], "there is no such folder"),
        (["run", "-o", "whole"], "is not empty"),
        ([], "Nothing to merge was named"),
        (["memory://no-shares/run"], "holds no run"),
        (["nosuch://bucket/run"], "cannot be opened"),
    ],
)
def test_what_is_not_joined(
    shares: Path, words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shares)
    shutil.copytree("run/shard-1-of-2", "copy", dirs_exist_ok=True)
    assert main(["merge", *words]) == 2
    assert said in capsys.readouterr().err
    assert not Path("run/report.json").exists()


def test_inputs_that_changed_since(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A new image moves no other; the shares are run again and do that image alone."""
    own, parts = tmp_path / "photos", tmp_path / "parts"
    shutil.copytree(photos, own)
    words = ["gradcam", str(own), *MODEL, "--save", "raw"]
    for index in (1, 2):
        explain([*words, "--shard", f"{index}/2"], parts)
    Image.fromarray(photograph(50)).save(own / "new.png")
    assert main(["merge", str(parts), "-q"]) == 2
    assert "9 files then, 10 now" in capsys.readouterr().err
    explain([*words, "--shard", "1/2", "--resume"], parts)
    assert main(["merge", str(parts), "-q"]) == 2
    assert "the inputs were others (10 and 9 files)" in capsys.readouterr().err
    explain([*words, "--shard", "2/2", "--resume"], parts)
    fresh = [
        json.loads(path.read_text())["summary"]["explained"] - json.loads(path.read_text())["summary"]["resumed"]
        for path in sorted(parts.glob("shard-*/report.json"))
    ]
    assert sorted(fresh) == [0, 1]
    assert main(["merge", str(parts), "-q"]) == 3
    assert main(["merge", str(parts), "-q"]) == 2
    assert main(["merge", str(parts), "-q", "--overwrite"]) == 3
    explain(words, tmp_path / "whole")
    assert contents(parts) == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["gradcam", "-", "--shard", "1/2"], "--shard and INPUT -"),
        (["gradcam", "x", "--limit", "3", "--shard", "1/2"], "--shard and --limit 3"),
        (["gradcam", "x", "--scale", "run", "--shard", "1/2"], "--shard and --scale run"),
        (["gradcam", "x", "-o", "-", "--shard", "1/2"], "--shard and -o -"),
        (["gradcam", "x", "--shard", "3/2"], "I goes from 1 to N"),
        (["compare", "x", "--shard", "1/2"], "compare cannot be shared out"),
        (["synthesize", "--shard", "1/2"], "synthesize cannot be shared out"),
    ],
)
def test_what_cannot_be_shared_out(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err
