"""The command line: what reaches the pipeline, what is printed where, and the exit codes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cnnviz import __version__, catalog
from cnnviz.cli import console as console_module
from cnnviz.cli.app import main
from cnnviz.cli.console import Console, closing_line, printable
from cnnviz.errors import CnnvizError
from cnnviz.settings import (
    DrawSettings,
    ModelSpec,
    OutputSettings,
    RunSettings,
    RuntimeSettings,
    TargetSettings,
)
from cnnviz.specs import MethodSpec, Param

SUMMARY = {"inputs": 7, "explained": 6, "failed": 1, "seconds": 1.204, "images_per_second": 4.98}


@dataclass
class FakePipeline:
    """Stands in for ``cnnviz.pipeline``: remembers what it was asked and does what it is told."""

    summary: dict[str, Any] = field(default_factory=lambda: dict(SUMMARY))
    report: str | None = "cnnviz-out/gradcam/report.json"
    exit_code: int = 0
    picture: bytes | None = None
    records: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    error: BaseException | None = None
    runs: list[RunSettings] = field(default_factory=list)
    stdin: Any = None

    def run(self, settings: RunSettings, reporter: Any, stdin: Any = None) -> FakePipeline:
        self.runs.append(settings)
        self.stdin = stdin
        reporter.start(len(self.records))
        for text in self.notes:
            reporter.note(text)
        for record in self.records:
            reporter.advance(record)
        if self.error is not None:
            raise self.error
        reporter.finish()
        return self


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakePipeline:
    pipeline = FakePipeline()
    monkeypatch.setitem(sys.modules, "cnnviz.pipeline", pipeline)
    return pipeline


def record(path: str, label: str = "tiger cat", probability: float = 0.375) -> dict[str, Any]:
    return {"path": path, "predictions": [{"label": label, "probability": probability}], "error": None}


def failed(path: str) -> dict[str, Any]:
    return {"path": path, "predictions": [], "error": {"type": "truncated", "message": "the file ends early"}}


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
    --image-format webp --png-level 9 --seed 11 --limit 5 --fail-fast --nul --top 2 --output logits
    --activation sigmoid --counterfactual --quiet""".split()
SHORT = {
    "--model": "-m",
    "--layer": "-l",
    "--class": "-c",
    "--device": "-d",
    "--batch-size": "-b",
    "--workers": "-j",
    "--out": "-o",
    "--nul": "-0",
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
            no_crop=True,
            seed=11,
        ),
        target=TargetSettings(
            method="gradcam",
            params={"counterfactual": True},
            layers=("layer4", "-2"),
            classes=("282", "top:3"),
            score="probability",
            output="logits",
            activation="sigmoid",
            top=2,
        ),
        runtime=RuntimeSettings("cuda:1", "bf16", "off", 8, 3, 11),
        draw=DrawSettings(("raw", "panel"), "fixed:0,2.5", "viridis", 0.25, "webp", 9),
        output=OutputSettings("here", resume=True, overwrite=False, fail_fast=True),
        limit=5,
        nul=True,
    )


def test_options_may_stand_before_and_between_inputs(fake: FakePipeline) -> None:
    assert main(["gradcam", "-b", "auto", "a", "--overwrite", "b", "--", "-c.jpg"]) == 0
    assert fake.runs[0].inputs == ("a", "b", "-c.jpg")
    assert fake.runs[0].runtime.batch_size is None
    assert fake.runs[0].output.overwrite is True


def test_standard_input_is_handed_over_only_when_asked_for(
    fake: FakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        ("gradcm a.jpg", "No such command: gradcm", "Did you mean gradcam?"),
        (
            "explode a.jpg",
            "No such command: explode",
            "The commands are cam, gradcam, ",
        ),
        (".", "No such command: .", "cnnviz gradcam ."),
        ("https://x/a.jpg", "No such command: https://x/a.jpg", "cnnviz gradcam https://x/a.jpg"),
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
        ("methods extra", "Got unexpected extra argument", "See cnnviz methods --help"),
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
        ("gradcam a.jpg --compile always", "--compile always: expected one of auto, on, off.", "Choose"),
        ("gradcam a.jpg --score logits", "--score logits: expected one of logit,", "Did you mean logit?"),
        ("gradcam a.jpg --activation soft", "--activation soft: expected one of auto,", "softmax"),
        (
            "gradcam a.jpg --image-format jpeg",
            "--image-format jpeg: expected one of png,",
            "Did you mean jpg",
        ),
        ("gradcam a.jpg --colormap trubo", "--colormap trubo: expected one of turbo,", "Did you mean turbo?"),
        ("gradcam a.jpg --scale log", "--scale log: expected image, run or fixed:a,b.", "fixed:0,12.5"),
        ("gradcam a.jpg --save overly", "--save overly: 'overly' is no kind of file.", "overlay"),
        ("gradcam a.jpg --mean 0.5,x,0.5", "--mean 0.5,x,0.5: not a number.", "0.5,0.5,0.5"),
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


def test_an_internal_error_shows_its_traceback_only_with_v(
    fake: FakePipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.error = ZeroDivisionError("oh\nno")
    assert main(["gradcam", "a.jpg"]) == 2
    lines = [
        "cnnviz: internal error: ZeroDivisionError: oh\\nno",
        "run again with -v for the traceback, and report it",
    ]
    assert capsys.readouterr().err.splitlines() == lines
    assert main(["gradcam", "a.jpg", "-v"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[:3] == [*lines, "Traceback (most recent call last):"]
    assert said[-1] == "no"


def test_ctrl_c(fake: FakePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    fake.error = KeyboardInterrupt()
    assert main(["gradcam", "a.jpg"]) == 130
    assert capsys.readouterr().err == "cnnviz: interrupted; continue with --resume\n"
    fake.error, fake.exit_code = None, 130
    assert main(["gradcam", "a.jpg"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "cnnviz: interrupted; continue with --resume"


@pytest.mark.parametrize("args", [["methods"], ["methods", "--json"], ["gradcam", "--help"], ["--version"]])
def test_a_reader_that_went_away_is_no_error(args: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "cnnviz", *args], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


# What is printed.


def test_one_closing_line(fake: FakePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    fake.records = [record("a.jpg")]
    fake.exit_code = 3
    assert main(["gradcam", "a.jpg"]) == 3
    assert capsys.readouterr() == (
        "",
        "explained 6 of 7 images in 1.2 s (5.0/s), 1 failed; report: cnnviz-out/gradcam/report.json\n",
    )


def test_the_closing_line_counts_in_english() -> None:
    one = {"inputs": 1, "explained": 1, "failed": 0, "passed_over": 1, "seconds": 0.0}
    result = SimpleNamespace(summary=one, report=None, exit_code=0, picture=None)
    assert closing_line(result) == "explained 1 of 1 image in 0.0 s, 1 other file passed over"


def test_notes_and_failures_go_to_standard_error(
    fake: FakePipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.notes = ["compiling takes 9 s\x07"]
    fake.records = [record("a.jpg"), *(failed(f"{i}.jpg") for i in range(9))]
    assert main(["gradcam", "a.jpg"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[:-1] == [
        "cnnviz: note: compiling takes 9 s\\x07",
        *(f"cnnviz: note: {i}.jpg  truncated: the file ends early" for i in range(5)),
    ]


def test_verbose_prints_every_input(fake: FakePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    fake.records = [record("a\x1b]0;x\x07.jpg"), failed("b.jpg")]
    assert main(["gradcam", "a.jpg", "-v"]) == 0
    assert capsys.readouterr().err.splitlines()[:-1] == [
        "a\\x1b]0;x\\x07.jpg  tiger cat  0.375",
        "b.jpg  truncated: the file ends early",
    ]


def test_quiet_says_nothing(fake: FakePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    fake.notes, fake.records, fake.exit_code = ["note"], [failed("a.jpg")], 3
    assert main(["gradcam", "a.jpg", "-q"]) == 3
    assert capsys.readouterr() == ("", "")


def test_json_is_one_object_and_nothing_else(fake: FakePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    fake.summary["gap"] = float("nan")
    fake.notes, fake.report = ["heard"], "out/caf\udce9/report.json"
    assert main(["gradcam", "a.jpg", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == {**SUMMARY, "gap": None, "report": "out/caf\udce9/report.json"}
    assert out.isascii()
    assert err == "cnnviz: note: heard\n"


def test_a_picture_goes_to_standard_output(
    fake: FakePipeline, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    fake.picture = b"\x89PNG\r\n\x00\xff"
    assert main(["gradcam", "a.jpg", "-o", "-"]) == 0
    assert capsysbinary.readouterr() == (b"\x89PNG\r\n\x00\xff", b"")
    assert fake.runs[0].draw.save == ("overlay",)
    assert fake.runs[0].output.out == "-"
    assert main(["gradcam", "a.jpg", "-o", "-", "--save", "panel"]) == 0
    assert fake.runs[1].draw.save == ("panel",)


def test_a_picture_is_refused_by_a_terminal(
    fake: FakePipeline, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["gradcam", "a.jpg", "-o", "-"]) == 2
    assert capsys.readouterr().err.startswith("cnnviz: -o - would write a picture to the terminal.\n")
    assert fake.runs == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 猫.jpg", "plain é 猫.jpg"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\x1b[2J\x9b", "\\x1b[2J\\x9b"),
        ("evil\u202egpj.exe", "evil\\u202egpj.exe"),
        (os.fsdecode(b"\xff"), "\\udcff"),
    ],
)
def test_nothing_printed_can_steer_a_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_narrow_encoding_is_no_obstacle() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console_module._line(stream, "猫 é")
    assert stream.buffer.getvalue() == b"\\u732b \\xe9\n"


# In a terminal.

IN_TERMINAL = """
import sys, time
from types import SimpleNamespace
from cnnviz.cli.app import main
rows = [dict(path=f"{i}[red].jpg", predictions=[dict(label="caf\\u00e9\\x1b[2J", probability=0.5)], error=None)
        for i in range(int(sys.argv[1]))]
rows[0] = dict(path="bad.jpg", predictions=[], error=dict(type="empty", message="no bytes"))
def run(settings, reporter, stdin=None):
    reporter.start(len(rows))
    for row in rows:
        reporter.advance(row)
    reporter.note("half [bold]way")
    time.sleep(0.15)
    reporter.finish()
    return SimpleNamespace(summary=dict(inputs=len(rows), explained=len(rows) - 1, failed=1), report="r.json",
                           exit_code=3, picture=None)
sys.modules["cnnviz.pipeline"] = SimpleNamespace(run=run)
sys.exit(main(["gradcam", "x", *sys.argv[2:]]))
"""


def in_terminal(count: int, *args: str, **environment: str) -> str:
    """What a terminal of 100 columns receives on standard error."""
    pytest.importorskip("pty")
    master, slave = os.openpty()
    env = {key: value for key, value in os.environ.items() if key not in {"NO_COLOR", "FORCE_COLOR"}}
    env.update({"TERM": "xterm-256color", "COLUMNS": "100", **environment})
    command = [sys.executable, "-c", IN_TERMINAL, str(count), *args]
    with subprocess.Popen(command, stderr=slave, stdout=subprocess.PIPE, env=env) as process:
        os.close(slave)
        received = b""
        while True:
            try:
                piece = os.read(master, 65536)
            except OSError:
                break
            if not piece:
                break
            received += piece
        assert process.stdout is not None
        assert process.stdout.read() == b""
    os.close(master)
    assert process.returncode == 3
    return received.decode()


def test_a_terminal_sees_a_bar_and_a_table() -> None:
    text = in_terminal(3)
    assert "3/3" in text
    assert "/s" in text
    assert "cnnviz: note: half [bold]way" in text
    tail = text[text.rindex("probability") :]
    assert "1[red].jpg  café\\x1b[2J" in tail
    assert "empty: no bytes" in tail
    assert "explained 2 of 3 images, 1 failed; report: r.json" in tail


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["NO_COLOR", "dumb"])
def test_no_colour_and_no_animation_where_they_are_not_wanted(environment: dict[str, str]) -> None:
    text = in_terminal(3, **environment)
    assert "\x1b" not in text
    assert "3/3" not in text
    assert "1[red].jpg  café\\x1b[2J" in text


def test_many_inputs_get_no_table() -> None:
    text = in_terminal(21, NO_COLOR="1")
    assert "probability" not in text
    assert "cnnviz: note: bad.jpg  empty: no bytes" in text


def test_quiet_in_a_terminal() -> None:
    assert in_terminal(3, "-q") == ""


def test_a_total_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    console = Console()
    console.start(None)
    console.advance(record("a.jpg"))
    console.finish()
    assert "1/?" in terminal.getvalue()


# Commands made from the register.

WINDOW = Param("window_size", "int", 32, "Side of the window.", minimum=1, maximum=99, unit="pixels")
SHARED_PARAM = Param("seed", "int", 0, "Of the noise.")
EXTRA = (
    MethodSpec(
        name="extra",
        command="extra",
        family="added by a test",
        entry="nowhere:f",
        title="Extra",
        summary="An added method.",
        paper="Nobody 2020",
        params=(WINDOW, Param("flag", "bool", False, "A switch."), SHARED_PARAM),
    ),
    MethodSpec(
        name="extra++",
        command="extra",
        family="added by a test",
        entry="nowhere:g",
        title="Extra++",
        summary="Its variant.",
        paper="Nobody 2021",
        params=(
            WINDOW,
            Param("lambda", "float", 0.5, "Strength", minimum=0.0),
            Param("kind", "choice", "near", "Which.", choices=("near", "far")),
            Param("mode", "choice", "on", "Whether.", choices=("on", "off")),
            Param("grid", "size", 32, "Cells."),
            Param("smooth", "bool", True, "Smooth the map."),
        ),
    ),
)


@pytest.fixture
def extra(monkeypatch: pytest.MonkeyPatch, fake: FakePipeline) -> Iterator[FakePipeline]:
    def points(group: str) -> list[Any]:
        assert group == "cnnviz.methods"
        return [SimpleNamespace(name=spec.name, load=lambda spec=spec: spec) for spec in EXTRA]

    monkeypatch.setattr(catalog, "entry_points", points)
    catalog.all_methods.cache_clear()
    yield fake
    catalog.all_methods.cache_clear()


def test_a_method_of_another_package_is_a_command(extra: FakePipeline) -> None:
    assert main(["extra", "x.jpg", "--flag", "--window-size", "5", "--seed", "9"]) == 0
    settings = extra.runs[0]
    assert settings.command == settings.target.method == "extra"
    assert settings.target.params == {"window_size": 5, "flag": True, "seed": 9}
    assert settings.runtime.seed == 9
    assert settings.output.out == "cnnviz-out/extra"


def test_its_variants(extra: FakePipeline) -> None:
    args = ["--variant", "extra++", "--lambda", "2", "--kind", "far", "--no-smooth"]
    assert main(["extra", "x.jpg", *args, "--seed", "9"]) == 0
    assert extra.runs[0].target.method == "extra++"
    assert extra.runs[0].target.params == {
        "window_size": 32,
        "lambda": 2.0,
        "kind": "far",
        "smooth": False,
        "mode": "on",
        "grid": (32, 32),
    }
    assert main(["extra", "x.jpg"]) == 0
    assert extra.runs[1].target.params == {"window_size": 32, "flag": False, "seed": 0}


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        ("--variant extra+", "--variant extra+: expected one of extra, extra++.", "Did you mean extra"),
        ("--lambda 2", "Method extra has no option 'lambda'.", "It takes window_size, flag, seed."),
        ("--window-size 100", "window_size=100 is out of range: 1 to 99.", ""),
        ("--window-size 2.5", "--window-size 2.5: expected a whole number.", "--window-size 1"),
        ("--variant extra++ --kind fra", "kind='fra': expected one of near, far.", "far"),
    ],
)
def test_a_wrong_value_for_it(
    extra: FakePipeline, capsys: pytest.CaptureFixture[str], args: str, message: str, hint: str
) -> None:
    assert main(["extra", "x.jpg", *args.split()]) == 2
    first, *rest = capsys.readouterr().err.splitlines()
    assert first == f"cnnviz: {message}"
    assert hint in "".join(rest)
    assert extra.runs == []


def test_its_options_stand_in_a_configuration_file(extra: FakePipeline, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("variant: extra++\nlambda: 3\nwindow-size: 7\nsmooth: false\nmode: off\ngrid: [4, 6]\n")
    assert main(["extra", "x.jpg", "--config", str(path), "--window-size", "8"]) == 0
    assert extra.runs[0].target.params == {
        "window_size": 8,
        "lambda": 3.0,
        "kind": "near",
        "smooth": False,
        "mode": "off",
        "grid": (4, 6),
    }


def test_its_help(extra: FakePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["extra", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "An added method." in text
    assert "--window-size N Side of the window. 1 to 99 pixels. [default: 32]" in text
    assert "--lambda X Strength. 0 or more. [default: 0.5]" in text
    assert "--kind near|far Which. [default: near]" in text
    assert "--grid N|H,W Cells. [default: 32]" in text
    assert "--variant NAME extra, extra++. [default: extra]" in text
    assert text.count("--seed") == 1
    assert main([]) == 0
    listed = capsys.readouterr().out
    assert "Added by a test:\n  extra " in listed
    assert " An added method.\n" in listed


# Help, methods, version.

CONTRACT = """-m --model --weights --checkpoint --trust-checkpoint --num-classes --labels --input-size --mean --std
    --resize --no-crop -l --layer -c --class --score -d --device --precision --compile -b --batch-size -j --workers
    -o --out --resume --overwrite --save --scale --colormap --alpha --image-format --png-level --seed --config -q -v
    --json --limit --fail-fast -0 --top --output --activation""".split()


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


def test_methods_lists_the_register(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for spec in catalog.all_methods():
        row = next(line for line in out.splitlines() if line.startswith(f"{spec.name} "))
        assert row.endswith(spec.paper)
        assert f"{spec.forward} forward, {spec.backward} backward" in row
        assert all(f"--{param.name.replace('_', '-')}  {param.help}" in out for param in spec.params)


def test_methods_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "--json"]) == 0
    listed = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(listed) == [spec.name for spec in catalog.all_methods()]
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
    model = f"{Path(__file__).parent / 'tiny_model.py'}:make"
    args = ["-m", model, "--input-size", "64", "--resize", "64", "-d", "cpu", "--compile", "off"]
    assert main(["gradcam", str(sample_images / "cat.jpg"), "-o", str(out), "--json", *args]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["inputs"], summary["explained"], summary["failed"]) == (1, 1, 0)
    report = json.loads(Path(summary["report"]).read_text(encoding="utf-8"))
    assert report["options"]["resize"] == 64
    files = report["images"][0]["explanations"][0]["files"]
    assert sorted(files) == ["heatmap", "overlay"]
    assert all((out / name).stat().st_size > 0 for name in files.values())
