"""The command line: what reaches the pipeline, and what an error says."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cnnviz import __version__
from cnnviz.cli.app import main
from cnnviz.errors import CnnvizError
from cnnviz.registry import lookup
from cnnviz.registry.specs import MethodSpec
from cnnviz.settings import (
    DrawSettings,
    ModelSpec,
    OutputSettings,
    RunSettings,
    RuntimeSettings,
    TargetSettings,
)
from tests.support import tiny_model
from tests.support.fake_pipeline import FakePipeline

# What reaches the pipeline.


def test_defaults_are_those_of_the_settings(fake: FakePipeline) -> None:
    assert main(["cam", "a.jpg"]) == 0
    wanted = RunSettings(
        "cam",
        ("a.jpg",),
        target=TargetSettings(method="cam"),
        output=OutputSettings(out="cnnviz-out/cam"),
    )
    assert fake.runs == [wanted]


LONG = """--model resnet50 --weights none --checkpoint best.pth --trust-checkpoint --num-classes 12 --labels l.txt
    --input-size 3,192,256 --mean 0.1,0.2,0.3 --std 0.4,0.5,0.6 --resize 260 --no-crop --layer layer4 --layer -2
    --class 282 --class top:3 --score probability --device cuda:1 --precision bf16 --compile off --batch-size 8
    --workers 3 --out here --resume --save raw,panel --scale fixed:0,2.5 --colormap viridis --alpha 0.25
    --image-format webp --png-level 9 --seed 11 --limit 5 --fail-fast --null --top 2 --logits-key logits
    --activation sigmoid --counterfactual --quiet""".split()
SHORT = {
    "--model": "-m",
    "--layer": "-l",
    "--class": "-c",
    "--device": "-d",
    "--batch-size": "-b",
    "--workers": "-j",
    "--out": "-o",
    "--null": "-0",
    "--quiet": "-q",
}


@pytest.mark.parametrize("args", [LONG, [SHORT.get(word, word) for word in LONG]], ids=["long", "short"])
def test_every_option_arrives(fake: FakePipeline, args: list[str]) -> None:
    assert main(["gradcam", "a.jpg", "folder", *args]) == 0
    assert fake.runs[0] == RunSettings(
        command="gradcam",
        inputs=("a.jpg", "folder"),
        model=ModelSpec(
            model="resnet50",
            weights="none",
            checkpoint="best.pth",
            trust_checkpoint=True,
            num_classes=12,
            labels="l.txt",
            input_size=(3, 192, 256),
            mean=(0.1, 0.2, 0.3),
            std=(0.4, 0.5, 0.6),
            resize=260,
            view="whole",
            seed=11,
        ),
        target=TargetSettings(
            method="gradcam",
            params={"counterfactual": True},
            layers=("layer4", "-2"),
            classes=("282", "top:3"),
            score="probability",
            logits_key="logits",
            activation="sigmoid",
            top=2,
        ),
        runtime=RuntimeSettings("cuda:1", "bf16", "off", 8, 3, 11),
        draw=DrawSettings(("raw", "panel"), "fixed:0,2.5", "viridis", 0.25, "webp", 9),
        output=OutputSettings("here", resume=True, overwrite=False, fail_fast=True),
        limit=5,
        null=True,
    )


def test_options_may_stand_before_and_between_inputs(fake: FakePipeline) -> None:
    assert main(["gradcam", "-b", "auto", "a", "--overwrite", "b", "--", "-c.jpg"]) == 0
    assert fake.runs[0].inputs == ("a", "b", "-c.jpg")
    assert fake.runs[0].runtime.batch_size is None
    assert fake.runs[0].output.overwrite is True


def test_standard_input_is_handed_over_only_when_asked_for(fake: FakePipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a.jpg\0b\xff.jpg\0")))
    assert main(["gradcam", "a.jpg"]) == 0
    unasked = fake.stdin
    assert unasked is None
    assert main(["gradcam", "-", "-0"]) == 0
    assert fake.stdin.read() == b"a.jpg\0b\xff.jpg\0"


def test_names_that_are_no_utf8_survive(fake: FakePipeline) -> None:
    name = os.fsdecode(b"caf\xe9 \n.jpg")
    assert main(["gradcam", name]) == 0
    assert os.fsencode(fake.runs[0].inputs[0]) == b"caf\xe9 \n.jpg"


# Errors.


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        ("gradcm a.jpg", "No such command: gradcm", "Did you mean gradcam or grid?"),
        (
            "explode a.jpg",
            "No such command: explode",
            "The commands are cam, gradcam, ",
        ),
        (".", "No such command: .", "cnnviz gradcam ."),
        ("https://x/a.jpg", "No such command: https://x/a.jpg", "cnnviz gradcam https://x/a.jpg"),
        ("-v gradcam a.jpg -q", "No such option: -v", "behind the command: cnnviz gradcam a.jpg -q -v"),
        ("--model resnet18 cam a.jpg", "No such option: --model", "cnnviz cam a.jpg --model resnet18"),
        ("-o grid cam a.jpg", "No such option: -o", "behind the command: cnnviz cam a.jpg -o grid"),
        ("--json methods", "No such option: --json", "behind the command: cnnviz methods --json"),
        ("-v methods", "No such option: -v", "cnnviz methods has no option -v; see cnnviz methods --help"),
        ("-q --foo cam a.jpg", "No such option: -q", "cnnviz cam has no option --foo; see cnnviz cam --help"),
        ("--json methods a.jpg", "No such option: --json", "cnnviz methods does not take a.jpg; see cnnviz methods"),
        ("-v", "No such option: -v", "Options stand behind a command, such as cnnviz gradcam photos/ -v"),
        ("-Z", "No such option: -Z", "See cnnviz --help"),
        ("--verison", "No such option: --verison", "Did you mean --version?"),
        ("gradcam a.jpg --colrmap jet", "No such option: --colrmap", "--colormap"),
        (
            "gradcam a.jpg --counterfactul",
            "No such option: --counterfactul",
            "Did you mean --counterfactual?",
        ),
        ("cam a.jpg --counterfactual", "No such option: --counterfactual", "cnnviz cam --help"),
        ("gradcam a.jpg -Z", "No such option: -Z", "See cnnviz gradcam --help"),
        ("gradcam a.jpg --layer", "Option '--layer' requires an argument.", "See cnnviz gradcam --help"),
        (
            "gradcam a.jpg --no-crop=1",
            "Option '--no-crop' does not take a value.",
            "See cnnviz gradcam --help",
        ),
        ("methods extra", "cnnviz methods does not take extra", "Leave that out. See cnnviz methods --help"),
        ("filters a.jpg b.jpg", "cnnviz filters does not take a.jpg b.jpg", "See cnnviz filters --help"),
        ("guided a.jpg --variant x", "cnnviz guided has no variants", "See cnnviz guided --help"),
        (
            "occlusion a.jpg --variant layercam",
            "--variant layercam: cnnviz occlusion has",
            "Type cnnviz gradcam --variant layercam;",
        ),
        (
            "rise a.jpg --variant=lrp",
            "--variant lrp: this is not of cnnviz rise.",
            "Type cnnviz lrp; lrp is a command",
        ),
        (
            "saliency a.jpg --variant layercam",
            "--variant layercam: this is not of cnnviz saliency.",
            "Type cnnviz gradcam --variant layercam",
        ),
        ("saliency a.jpg --variant nothing", "--variant nothing: expected one of", "See cnnviz saliency --help"),
        ("adversarial a.jpg --metod x", "No such option: --metod", "Did you mean --model?"),
        (
            "saliency a.jpg --variant gradcam",
            "--variant gradcam: this is not of cnnviz saliency.",
            "Type cnnviz gradcam.",
        ),
        ("concepts a.jpg -c cat", "No such option: -c", "The class is named by --of here."),
        ("occlusion a.jpg --stride 0", "--stride 0 is out of range: 1 or more.", "The default is 8."),
        ("rise a.jpg --masks 0", "--masks 0 is out of range: 1 or more.", "The default is 4000."),
        (
            "lrp a.jpg --rule gamma",
            "--rule gamma: expected one of composite, epsilon, alpha-beta, attnlrp.",
            "The default is composite.",
        ),
        ("gradcam", "No INPUT was given.", "cnnviz gradcam photos/"),
        ("gradcam a.jpg --alpha 1.5", "--alpha 1.5: expected 0 to 1.", "--alpha 1"),
        ("gradcam a.jpg --alpha nan", "--alpha nan: expected 0 to 1.", "--alpha 1"),
        ("gradcam a.jpg --alpha half", "--alpha half: expected a number.", "--alpha 1"),
        ("gradcam a.jpg --png-level 10", "--png-level 10: expected 0 to 9.", "--png-level 9"),
        ("gradcam a.jpg -j 0", "--workers 0: expected 1 or more.", "--workers 1"),
        ("gradcam a.jpg -j 1.5", "--workers 1.5: expected a whole number.", "--workers 1"),
        ("gradcam a.jpg -b 0", "--batch-size 0: expected a number above 0, or auto.", "--batch-size 16"),
        ("gradcam a.jpg -b many", "--batch-size many: expected a number above 0", "--batch-size 16"),
        ("gradcam a.jpg --top 0", "--top 0: expected 1 or more.", "--top 1"),
        ("gradcam a.jpg --limit -3", "--limit -3: expected 1 or more.", "--limit 1"),
        ("gradcam a.jpg --seed -1", "--seed -1: expected 0 or more.", "--seed 0"),
        (
            "gradcam a.jpg --compile always",
            "--compile always: expected one of auto, on, off.",
            "For example --compile auto",
        ),
        ("gradcam a.jpg --score logits", "--score logits: expected one of logit,", "Did you mean logit?"),
        ("gradcam a.jpg --activation soft", "--activation soft: expected one of auto,", "softmax"),
        (
            "gradcam a.jpg --image-format jpeg",
            "--image-format jpeg: expected one of png,",
            "Did you mean jpg",
        ),
        ("gradcam a.jpg --colormap trubo", "--colormap trubo: expected one of auto, turbo,", "Did you mean turbo?"),
        ("gradcam a.jpg --scale log", "--scale log: expected image, run or fixed:a,b.", "fixed:0,12.5"),
        ("gradcam a.jpg --save overly", "--save overly: 'overly' is no kind of file.", "overlay"),
        ("gradcam a.jpg --mean 0.5,x,0.5", "--mean 0.5,x,0.5: 'x' is not a number.", "0.485,0.456,0.406"),
        ("gradcam a.jpg --input-size abc", "--input-size abc: 'abc' is not a number.", "--input-size 224"),
        ("gradcam a.jpg --std 1,1", "--std 1,1: expected 1 or 3 numbers, got 2.", "--std 0.229,0.224,0.225"),
        (
            "gradcam a.jpg --masks 9",
            "No such option: --masks",
            "an option of cnnviz rise, cnnviz sensitivity and cnnviz top-patches",
        ),
        (
            "gradcam a.jpg --samples 50",
            "--samples is an option of smoothgradcam++ and sscam, not of gradcam.",
            "--variant smoothgradcam++",
        ),
        ("ig-nonsense a.jpg", "No such command: ig-nonsense", "The commands are"),
        (
            "integrated-gradients a.jpg",
            "No such command: integrated-gradients",
            "cnnviz saliency --variant integrated_gradients",
        ),
        ("filters --top 3", "No such option: --top", "cnnviz filters --help"),
        ("layers --mean 0.5", "No such option: --mean", "Leave --mean out: the list of layers does not depend on it."),
        ("layers -o maps", "No such option: -o", "for a file: cnnviz layers > FILE."),
        ("targets a.jpg -c dog", "No such option: -c", "cnnviz gradcam IMAGE -c explains one of them."),
        ("serve -l layer4", "No such option: -l", "Leave -l out: it is chosen on the page"),
        (
            "report maps -m resnet18",
            "No such option: -m",
            "Leave -m out: the runs that it shows were made with theirs.",
        ),
        ("merge maps --resume", "No such option: --resume", "--overwrite begins anew in the folder."),
        ("embed a.jpg --save raw", "No such option: --save", "Leave --save out: cnnviz gradcam and other commands"),
        ("grid a.jpg --metric peak", "No such option: --metric", "Leave --metric out: cnnviz evaluate measures maps."),
        ("dream a.jpg --top 3", "No such option: --top", "cnnviz dream --help"),
        ("gradcam a.jpg --input-size 0", "--input-size 0: sizes are whole numbers", "--input-size 224"),
        ("gradcam a.jpg --resume --overwrite", "--resume and --overwrite exclude each other.", "Leave one"),
        ("gradcam a.jpg -o - --json", "-o - writes a picture to standard output", "Leave out --json"),
    ],
)
def test_a_usage_error(
    fake: FakePipeline, capsys: pytest.CaptureFixture[str], args: str, message: str, hint: str
) -> None:
    assert main(args.split()) == 2
    out, err = capsys.readouterr()
    first, second = err.splitlines()
    assert first.startswith(f"cnnviz: {message}")
    assert hint in second
    assert out == ""
    assert fake.runs == []


def test_an_empty_save_is_no_default(fake: FakePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gradcam", "a.jpg", "--save", ""]) == 2
    assert capsys.readouterr().err.startswith("cnnviz: --save needs at least one kind.")


def test_an_error_of_the_run(fake: FakePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    fake.error = CnnvizError("bad \x1b[31m\nname \udcff", "do that", exit_code=1)
    assert main(["gradcam", "a.jpg"]) == 1
    assert capsys.readouterr() == ("", "cnnviz: bad \\x1b[31m\\nname \\udcff\ndo that\n")


@pytest.mark.parametrize("args", [["methods"], ["methods", "--json"], ["gradcam", "--help"], ["--version"]])
def test_a_reader_that_went_away_is_no_error(args: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "cnnviz", *args], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


# Help, methods, version.

CONTRACT = """-m --model --weights --checkpoint --trust-checkpoint --num-classes --labels --input-size --mean --std
    --resize --view --no-crop -l --layer -c --class --score -d --device --precision --compile -b --batch-size -j
    --workers -o --out --resume --overwrite --save --scale --colormap --alpha --image-format --png-level --seed --config
    -q -v --json --limit --fail-fast -0 --top --logits-key --activation""".split()


@pytest.mark.parametrize("command", ["cam", "gradcam"])
def test_the_help_page_has_every_option_under_its_heading(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Both make Typer's own pages colour what goes into a file.
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert main([command, "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "\x1b" not in out
    words = out.replace(",", " ").split()
    assert [flag for flag in CONTRACT if flag not in words] == []
    headings = [line for line in out.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings[:5] == ["Input:", "Model:", "What to explain:", "Speed:", "Output:"]
    assert out.startswith(f"Usage: cnnviz {command} INPUT... [OPTIONS]\n")


@pytest.mark.parametrize("spec", [spec for spec in lookup.STUDIES if spec.help_overrides], ids=lambda spec: spec.name)
def test_a_study_words_shared_options_as_it_means_them(spec: MethodSpec, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([spec.command, "--help"]) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert set(spec.help_overrides) <= set(spec.shared_options)
    assert all(" ".join(text.split()) in words for text in spec.help_overrides.values())
    assert main(["gradcam", "--help"]) == 0
    assert "Target layer by module path" in " ".join(capsys.readouterr().out.split())


def test_input_that_may_be_left_out_stands_in_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["synthesize", "--help"]) == 0
    assert capsys.readouterr().out.startswith("Usage: cnnviz synthesize [INPUT...] [OPTIONS]\n")


def test_methods_lists_the_register(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for spec in lookup.all_methods():
        row = next(line for line in out.splitlines() if line.startswith(f"{spec.name} "))
        assert row.endswith(spec.paper)
        assert f"{spec.forward} forward, {spec.backward} backward" in row
        for param in spec.params:
            choices = f"{'|'.join(param.choices)}  " if param.choices else ""
            assert f"--{param.name.replace('_', '-')}  {choices}{param.help}" in out


def test_methods_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "--json"]) == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(listed) == [spec.name for spec in lookup.all_methods()]
    gradcam = listed["gradcam"]
    assert gradcam["paper"].startswith("Selvaraju et al.")
    assert gradcam["options"]["counterfactual"]["default"] is False


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr() == (f"cnnviz {__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "offered"), [("cnnviz grad", ["gradcam"]), ("cnnviz gradcam --colo", ["--colormap"])]
)
def test_shell_completion(words: str, offered: list[str]) -> None:
    env = {
        **os.environ,
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
        "_CNNVIZ_COMPLETE": "complete_bash",
    }
    done = subprocess.run([sys.executable, "-m", "cnnviz"], env=env, capture_output=True, text=True)
    assert done.stdout.split() == offered


# The real pipeline, once.


def test_a_real_run(tmp_path: Path, sample_images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    model = f"{tiny_model.__file__}:make"
    args = ["-m", model, "--input-size", "64", "--resize", "64", "-d", "cpu", "--compile", "off"]
    assert main(["gradcam", str(sample_images / "cat.jpg"), "-o", str(out), "--json", *args]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["inputs"], summary["explained"], summary["failed"]) == (1, 1, 0)
    report = json.loads(Path(summary["report"]).read_text(encoding="utf-8"))
    assert report["options"]["resize"] == 64
    files = report["images"][0]["explanations"][0]["files"]
    assert sorted(files) == ["heatmap", "overlay"]
    assert all((out / name).stat().st_size > 0 for name in files.values())
