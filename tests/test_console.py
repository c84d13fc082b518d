"""What is printed where: streams, notes, tables, pictures, colours."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import time
from types import SimpleNamespace

import pytest

from cnnviz.cli import console as console_module
from cnnviz.cli.app import main
from cnnviz.cli.console import Console, closing_line, printable
from cnnviz.cli.heartbeat import Heartbeat
from cnnviz.cli.progress import Done
from cnnviz.run.counting import rate
from tests.support.fake_pipeline import SUMMARY, FakePipeline, failed, record

# What is printed.


def test_one_closing_line(fake: FakePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    fake.records = [record("a.jpg")]
    fake.exit_code = 3
    assert main(["gradcam", "a.jpg"]) == 3
    assert capsys.readouterr() == (
        "",
        "explained 6 of 7 images in 1.2 s (5.0/s), 1 failed; open cnnviz-out/gradcam/index.html\n",
    )


def test_an_image_that_takes_long_is_told_off_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cnnviz.cli.heartbeat.EVERY", 0.2)

    def waited(total: int | None, quiet: bool = False) -> list[str]:
        console = Console()
        console.quiet = quiet
        console.start(total)
        console.advance(record("a.jpg"))
        time.sleep(0.7)
        console.finish()
        told = capsys.readouterr().err.splitlines()
        time.sleep(0.3)
        assert capsys.readouterr() == ("", "")
        return told

    assert set(waited(3)) == {"cnnviz: at image 2 of 3 for 0 s"}
    assert set(waited(None)) == {"cnnviz: at image 2 for 0 s"}
    assert set(waited(1)) == {"cnnviz: finishing for 0 s"}
    assert waited(3, quiet=True) == []


def test_work_on_images_that_are_not_finished_is_told_off_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cnnviz.cli.heartbeat.EVERY", 0.2)

    def waited(total: int | None) -> set[str]:
        console = Console()
        console.start(total)
        console.advance(record("a.jpg"))
        console.part(0.5)
        console.part(0.25)
        time.sleep(0.7)
        console.finish()
        return set(capsys.readouterr().err.splitlines())

    assert waited(5) == {"cnnviz: at image 2 of 5 for 0 s, 35 % of the work is done"}
    assert waited(None) == {"cnnviz: at image 2 for 0 s"}


@pytest.mark.parametrize(("done", "share"), [(0.004, "< 1 %"), (2.996, "> 99 %"), (3.0, "100 %"), (1.0, "33 %")])
def test_work_that_is_not_done_is_not_all_of_it(done: float, share: str) -> None:
    work = Done(3)
    work.part(done)
    assert work.share == share


def test_half_minutes_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    """It is told every thirty seconds: ``2 min`` came twice."""
    console = Console()
    console.start(1)
    for seconds in (90, 120, 150, 181):
        console._still(seconds)
    console.finish()
    told = [line.split(" for ")[1] for line in capsys.readouterr().err.splitlines()]
    assert told == ["90 s", "2 min", "2.5 min", "3 min"]


def test_the_bar_moves_with_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_module, "_is_lively", lambda stream: True)
    console = Console()
    console.start(4)
    assert console._progress is not None
    task = console._progress.tasks[0]
    seen = []
    for part in (0.5, 1.0, 0.25, None, None, 2.25, None, None):
        console.advance(record("a.jpg")) if part is None else console.part(part)
        seen.append((task.completed, task.fields["images"], task.fields["rate"]))
    console.finish()
    assert [done for done, *_ in seen] == [0.5, 1.5, 1.75, 1.75, 2.0, 4.0, 4.0, 4.0]
    assert [images for _, images, _ in seen] == ["0/4", "0/4", "0/4", "1/4", "2/4", "2/4", "3/4", "4/4"]
    assert [rate for *_, rate in seen[:3]] == ["12 %", "38 %", "44 %"]
    assert all(rate.endswith("/s") for *_, rate in seen[3:])


def test_images_that_come_in_time_are_not_told() -> None:
    count, told = [0], list[int]()
    heartbeat = Heartbeat(told.append, lambda: count[0], every=0.4)
    for _ in range(12):
        time.sleep(0.1)
        count[0] += 1
    heartbeat.stop()
    assert told == []


def test_the_closing_line_tells_a_long_start() -> None:
    facts = {"inputs": 2, "explained": 2, "seconds": 0.5, "images_per_second": 4.0}
    result = SimpleNamespace(summary=facts, report=None, exit_code=0, picture=None, sentences=())
    assert closing_line(result, 3.21) == "explained 2 of 2 images in 0.5 s (4.0/s) after 3.2 s to start"
    assert closing_line(result, 0.9) == "explained 2 of 2 images in 0.5 s (4.0/s)"


def test_the_closing_line_counts_in_english() -> None:
    one = {"inputs": 1, "explained": 1, "failed": 0, "passed_over": 1, "seconds": 0.0}
    result = SimpleNamespace(summary=one, report=None, exit_code=0, picture=None, sentences=())
    assert closing_line(result) == "explained 1 of 1 image in 0.0 s, 1 other file passed over"


def test_the_closing_line_has_no_speed_where_every_image_failed() -> None:
    facts = {"inputs": 1, "explained": 0, "failed": 1, "seconds": 0.01, "images_per_second": rate(1, 0.01)}
    result = SimpleNamespace(summary=facts, report=None, exit_code=3, picture=None, sentences=())
    assert closing_line(result) == "explained 0 of 1 image in 0.0 s, 1 failed"
    facts = {"inputs": 1, "explained": 1, "seconds": 74.218, "images_per_second": rate(1, 74.218)}
    result = SimpleNamespace(summary=facts, report=None, exit_code=0, picture=None, sentences=())
    assert closing_line(result) == "explained 1 of 1 image in 74.2 s (0.8 a minute)"


def test_the_closing_line_of_a_training() -> None:
    facts = {"inputs": 9, "explained": 8, "failed": 1, "seconds": 61.25, "images_per_second": None, "study": "train"}
    result = SimpleNamespace(summary=facts, report=None, exit_code=3, picture=None, sentences=(), again=None, once=None)
    assert closing_line(result) == "went through 8 of 9 images in 61.2 s, 1 failed"


def test_a_training_says_how_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_module, "_is_lively", lambda stream: True)
    console = Console()
    console.start(10)
    console.work(4, "epoch 1/2  loss 0.500")
    assert console._progress is not None
    task = console._progress.tasks[0]
    assert (task.completed, task.total, task.fields["rate"]) == (4, 10, "epoch 1/2  loss 0.500")
    console.finish()


def test_the_closing_line_tells_what_was_done_before() -> None:
    facts = {"inputs": 9, "explained": 8, "failed": 1, "resumed": 5, "seconds": 2.0, "images_per_second": 2.0}
    result = SimpleNamespace(summary=facts, report=None, exit_code=3, picture=None, sentences=(), again=None, once=None)
    assert closing_line(result) == "explained 3 of 9 images in 2.0 s (2.0/s), 5 were done before, 1 failed"
    facts.update(inputs=5, explained=5, failed=0)
    assert closing_line(result) == "nothing was left to do: 5 of 5 images were done before"


def test_notes_and_failures_go_to_standard_error(fake: FakePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    fake.notes = ["compiling takes 9 s\x07"]
    fake.records = [record("a.jpg"), *(failed(f"{i}.jpg") for i in range(9))]
    assert main(["gradcam", "a.jpg"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[:-1] == [
        "cnnviz: note: compiling takes 9 s\\x07",
        *(f"cnnviz: note: {i}.jpg  truncated: the file ends early" for i in range(5)),
        "cnnviz: note: 4 more failed; the report has the reason of each",
    ]


@pytest.mark.parametrize(("quiet", "told"), [(False, "cnnviz: epoch 1 of 2\\x07\n"), (True, "")])
def test_how_the_work_goes_is_no_note(capsys: pytest.CaptureFixture[str], quiet: bool, told: str) -> None:
    console = Console()
    console.quiet = quiet
    console.say("epoch 1 of 2\x07")
    assert capsys.readouterr() == ("", told)


def test_verbose_prints_every_input(fake: FakePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    fake.records = [record("a\x1b]0;x\x07.jpg"), failed("b.jpg")]
    assert main(["gradcam", "a.jpg", "-v"]) == 0
    assert capsys.readouterr().err.splitlines()[:-1] == [
        "a\\x1b]0;x\\x07.jpg  tiger cat  0.375",
        "b.jpg  truncated: the file ends early",
    ]


def test_quiet_says_errors_only(fake: FakePipeline, capsys: pytest.CaptureFixture[str]) -> None:
    fake.notes, fake.records, fake.exit_code = ["note"], [failed("a.jpg")], 3
    for more in ([], ["-v"], ["--json"]):
        assert main(["gradcam", "a.jpg", "-q", *more]) == 3
        [told] = capsys.readouterr().err.splitlines()
        assert told.startswith("cnnviz: note: a.jpg  ")
    fake.records = [record("a.jpg")]
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


def test_a_picture_goes_to_standard_output(fake: FakePipeline, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
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


def test_a_narrow_encoding_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
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
                           exit_code=3, picture=None, sentences=(), again=None, once=None)
sys.modules["cnnviz.pipeline"] = SimpleNamespace(run=run)
sys.exit(main(["gradcam", sys.executable, *sys.argv[2:]]))
"""


def in_terminal(count: int, *args: str, **environment: str) -> str:
    """What a terminal of 100 columns receives on standard error."""
    pytest.importorskip("pty")
    master, slave = os.openpty()
    env = {key: value for key, value in os.environ.items() if key not in {"NO_COLOR", "FORCE_COLOR"}}
    env.update({"TERM": "xterm-256color", "COLUMNS": "100", **environment})
    command = [sys.executable, "-c", IN_TERMINAL, str(count), *args]
    with (
        tempfile.TemporaryDirectory() as empty,  # no folder of a run that somebody made here
        subprocess.Popen(command, stderr=slave, stdout=subprocess.PIPE, env=env, cwd=empty) as process,
    ):
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
    assert text.startswith("starting: PyTorch, then efficientnet_lite0 …\r\x1b[K")
    assert "3/3" in text
    assert "/s" in text
    assert "cnnviz: note: half [bold]way" in text
    tail = text[text.rindex("probability") :]
    assert "1[red].jpg  café\\x1b[2J" in tail
    assert "empty: no bytes" in tail
    assert "explained 2 of 3 images" in tail
    assert "1 failed; open index.html" in tail


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
    assert in_terminal(3, "-q").split() == "cnnviz: note: bad.jpg empty: no bytes".split()


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
