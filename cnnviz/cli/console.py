"""The one place that prints.

Standard output carries what was asked for (a table, JSON, a picture); everything said to a person goes to standard
error. Nothing is coloured or animated where the stream is no terminal, or when NO_COLOR is set.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from cnnviz.cli import streams
from cnnviz.cli.heartbeat import Heartbeat
from cnnviz.cli.interrupts import what_next
from cnnviz.cli.progress import Done
from cnnviz.errors import EXIT_DONE, EXIT_INTERRUPTED, CnnvizError, foreign_cause

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.progress import Progress, TaskID

    from cnnviz.schema.images import AnyImage

TABLE_ROWS = 20
FAILURES_SHOWN = 5


class Outcome(Protocol):
    """What the console tells about a finished run."""

    @property
    def summary(self) -> Mapping[str, Any]: ...
    @property
    def report(self) -> str | None: ...
    @property
    def exit_code(self) -> int: ...
    @property
    def picture(self) -> bytes | None: ...
    @property
    def sentences(self) -> tuple[str, ...]: ...
    @property
    def annotations(self) -> tuple[str, ...]: ...


def printable(text: object) -> str:
    """``text`` on one line, with control characters, invisible format characters and surrogates escaped.

    A file name may hold anything: it must neither steer the terminal nor break a line in two.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


# Seconds of start-up from which on they are told.
_LONG_START = 1.0


class Console:
    """Where a run's progress and outcome are told. Implements the pipeline's ``Reporter``.

    Attributes:
        quiet: Errors only.
        verbose: Every input, and tracebacks of what code of the user raised, or nobody foresaw.
        json: Standard output carries the summary as JSON.
        resumes: Whether the command has ``--resume``.
        out: The folder that it writes; None where it writes none, or has not said which.
    """

    def __init__(self) -> None:
        self.quiet = False
        self.verbose = False
        self.json = False
        self.resumes = False
        self.out: str | None = None
        self._opened, self._began = time.perf_counter(), 0.0
        self._failed = 0
        self._rows: list[AnyImage] = []
        self._failures: list[AnyImage] = []
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._heartbeat: Heartbeat | None = None
        self._done = Done()
        self._waiting = False

    # Progress of a run.

    def starting(self, text: str) -> None:
        """What a person waits for until something else is said; on a terminal only."""
        if not self.quiet and _is_lively(sys.stderr):
            streams.tell(f"{printable(text)} …")
            self._waiting = True

    def _started(self) -> None:
        if self._waiting:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._waiting = False

    def start(self, total: int | None) -> None:
        """A run begins, with ``total`` inputs if that is known."""
        self._started()
        self._began, self._done = time.perf_counter(), Done(total)
        if self.quiet:
            return
        if not _is_lively(sys.stderr):
            self._heartbeat = Heartbeat(self._still, lambda: self._done.count)
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            BarColumn(),
            TextColumn("{task.fields[images]}", markup=False),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeRemainingColumn(compact=True),
            console=_rich(sys.stderr),
            transient=True,
        )
        self._task = self._progress.add_task("", total=total, rate="", images=self._done.images)
        self._progress.start()

    def advance(self, record: AnyImage) -> None:
        """One input is finished."""
        self._done.advance()
        if len(self._rows) <= TABLE_ROWS:
            self._rows.append(record)
        if record.get("error"):
            self._failed += 1
            if len(self._failures) < FAILURES_SHOWN:
                self._failures.append(record)
        self._show(self._rate)
        if self.verbose and not self.quiet:
            self._say("  ".join(filter(None, _row(record))))

    def work(self, count: int, text: str) -> None:
        """So many more images were gone through; ``text`` says how it goes."""
        self._done.advance(count)
        self._show(text)

    def part(self, images: float) -> None:
        """So many images' worth of work is done, of images that are not finished."""
        self._done.part(images)
        self._show(self._rate)

    @property
    def _rate(self) -> str:
        """How fast images are finished; before the first one, how much of the work is done."""
        count = self._done.count
        return f"{count / max(time.perf_counter() - self._began, 1e-9):.1f}/s" if count else self._done.share

    def _show(self, text: str) -> None:
        """Bring the bar to where the work is, with this beside it."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=self._done.work, images=self._done.images, rate=text)

    def _still(self, seconds: int) -> None:
        """One image takes long."""
        count, total = self._done.count, self._done.total
        at = "finishing" if count == total else f"at image {count + 1}{'' if total is None else f' of {total}'}"
        done = f", {share} of the work is done" if (share := self._done.share) else ""
        self._say(f"cnnviz: {at} for {f'{seconds} s' if seconds < 120 else f'{round(seconds / 30) / 2:g} min'}{done}")

    def say(self, text: str) -> None:
        """How the work goes: no notice."""
        if not self.quiet:
            self._say(f"cnnviz: {text}")

    def note(self, text: str) -> None:
        """A notice or a warning."""
        if not self.quiet:
            self._say(f"cnnviz: note: {text}")

    def address(self, url: str) -> None:
        """Where a server answers, until Ctrl-C."""
        self._started()
        streams.tell(f"cnnviz: {printable(url)}\ncnnviz: Ctrl-C ends it\n")

    def served(self, idle: bool) -> int:
        """A server has ended, as it should: by Ctrl-C. Returns the exit code of the process.

        Args:
            idle: Whether nothing is being computed any more; else the process ends without waiting for it.
        """
        self._started()
        if not idle:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(EXIT_DONE)
        return EXIT_DONE

    def finish(self) -> None:
        """No more progress will come."""
        self._started()
        if self._heartbeat is not None:
            self._heartbeat.stop()
            self._heartbeat = None
        if self._progress is not None:
            self._progress.stop()
            self._progress = self._task = None

    def _say(self, text: str) -> None:
        self._started()
        if self._progress is not None:
            from rich.text import Text

            self._progress.console.print(Text(printable(text)), soft_wrap=True)
        else:
            _line(sys.stderr, text)

    # Outcome of a run.

    def outcome(self, result: Outcome) -> int:
        """Tell what came of a run. Returns the exit code of the process."""
        self.finish()
        if result.picture is not None:
            streams.write_result(result.picture)
        elif self.json:
            self._note_failures()
            self.data({**result.summary, "report": result.report})
        elif self.quiet:
            self._note_failures()
        else:
            self._table_or_failures()
            for sentence in result.sentences:
                self._say(sentence)
            self._say(closing_line(result, self._began - self._opened if self._began else 0.0))
        if os.environ.get("GITHUB_ACTIONS") == "true":
            for line in result.annotations:
                self._say(line)
        return result.exit_code

    def _table_or_failures(self) -> None:
        if not _is_terminal(sys.stderr) or len(self._rows) > TABLE_ROWS or self.verbose:
            self._note_failures()
            return
        from rich.table import Table
        from rich.text import Text

        table = Table("file", "prediction", "probability", box=None, header_style="bold", pad_edge=False)
        for record in self._rows:
            style = "red" if record.get("error") else ""
            table.add_row(*(Text(printable(cell), style, overflow="fold") for cell in _row(record)))
        if self._rows:
            _rich(sys.stderr).print(table)

    def _note_failures(self) -> None:
        if self.verbose and not self.quiet:
            return  # each was told when it came
        told = ["  ".join(filter(None, _row(record))) for record in self._failures]
        if self._failed > len(self._failures):
            told.append(f"{self._failed - len(self._failures)} more failed; the report has the reason of each")
        for text in told:  # an error also for --quiet
            self._say(f"cnnviz: note: {text}")

    # Everything else.

    def text(self, text: str) -> None:
        """Lines that were asked for, on standard output."""
        for line in text.split("\n"):
            _line(sys.stdout, line)

    def data(self, value: Any) -> None:
        """A JSON value that was asked for, on one line of standard output."""
        from cnnviz.strict_json import to_json

        _line(sys.stdout, to_json(value))

    def error(self, error: CnnvizError) -> int:
        """Two lines: what is wrong, and how to mend it. Returns the exit code."""
        return self._fail(error.message, error.hint, error.exit_code, foreign_cause(error))

    def crash(self, error: BaseException) -> int:
        """An error that nobody foresaw. Returns the exit code."""
        what = f"internal error: {type(error).__name__}: {error}"
        return self._fail(what, "run again with -v for the traceback, and report it", CnnvizError("").exit_code, error)

    def _fail(self, message: str, hint: str, exit_code: int, raised: BaseException | None) -> int:
        """``raised`` is what a traceback helps with."""
        self.finish()
        _line(sys.stderr, f"cnnviz: {message}")
        if hint:
            _line(sys.stderr, hint)
        if self.verbose and raised is not None:
            import traceback

            for line in "".join(traceback.format_exception(raised)).rstrip().split("\n"):
                _line(sys.stderr, line)
        return exit_code

    def interrupted(self) -> int:
        """Ctrl-C. Returns the exit code."""
        self.finish()
        _line(sys.stderr, f"cnnviz: interrupted{what_next(self.out, resumes=self.resumes)}")
        return EXIT_INTERRUPTED

    def broken_pipe(self) -> int:
        """The reader of our output went away, as ``| head`` does. Returns the exit code.

        141 is what a shell reports for a program that SIGPIPE ended; 1 and 2 have a meaning of their own here.
        """
        for stream in (sys.stdout, sys.stderr):
            try:
                if stream is not None:
                    stream.flush()
            except BrokenPipeError:
                streams.give_up(stream)
        return 141


def refuse_terminal() -> None:
    """A picture must not be written to a terminal.

    Raises:
        CnnvizError: Standard output is one.
    """
    streams.require_output("The picture of -o -")
    if _is_terminal(sys.stdout):
        raise CnnvizError(
            "-o - would write a picture to the terminal.",
            "Send it to a file or a program: -o - > picture.png",
        )


def closing_line(result: Outcome, start: float = 0.0) -> str:
    """``explained 6 of 7 images in 1.2 s (5.0/s) after 3.4 s to start, 1 failed; open …/index.html``.

    Images that ``--resume`` found done are counted apart.

    Args:
        result: What came of the run.
        start: Seconds until its first image.
    """
    facts = result.summary
    inputs, failed, resumed = (int(facts.get(name) or 0) for name in ("inputs", "failed", "resumed"))
    did = "explained" if facts.get("study") is None else "went through"
    images = f"image{'' if inputs == 1 else 's'}"
    fresh = int(facts.get("explained") or 0) - resumed
    text = f"{did} {fresh} of {inputs} {images}" if "inputs" in facts else "done"
    if resumed and not fresh and not failed:
        # The times in the report are those of the run that did the work.
        text = f"nothing was left to do: {resumed} of {inputs} {images} {'was' if resumed == 1 else 'were'} done before"
    else:
        if facts.get("seconds") is not None:
            text += f" in {float(facts['seconds']):.1f} s"
        # Where every image failed, how fast says nothing.
        if facts.get("images_per_second") and fresh:
            rate = float(facts["images_per_second"])
            text += f" ({rate:.1f}/s)" if rate >= 0.1 else f" ({60 * rate:.1f} a minute)"
        text += f" after {start:.1f} s to start" if start >= _LONG_START else ""
        text += f", {resumed} {'was' if resumed == 1 else 'were'} done before" if resumed else ""
    skipped = int(facts.get("skipped") or 0)
    text += f", {skipped} left out by --only" if skipped else ""
    text += f", {failed} failed" if failed else ""
    passed = int(facts.get("passed_over") or 0)
    text += f", {passed} other file{'' if passed == 1 else 's'} passed over" if passed else ""
    # Of a run that was interrupted the page shows what there is, and must not sound as if that were all.
    page = "so far" if facts.get("interrupted") else "open"
    return text + (f"; {page} {_page_beside(result.report)}" if result.report else "")


def _page_beside(report: str) -> str:
    """The gallery, which stands beside ``report.json``: what a person opens."""
    folder, slash, _ = report.replace(os.sep, "/").rpartition("/")
    return f"{folder}{slash}index.html"


def _row(record: AnyImage) -> tuple[str, str, str]:
    error = record.get("error")
    if error:
        return str(record.get("path")), f"{error.get('type')}: {error.get('message')}", ""
    first = next(iter(record.get("predictions") or ()), None)
    if first is None:
        return str(record.get("path")), "", ""
    probability = first["probability"]
    return str(record.get("path")), str(first["label"]), "" if probability is None else f"{float(probability):.3f}"


def _line(stream: TextIO | None, text: str) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    safe = printable(text).encode(encoding, "backslashreplace").decode(encoding)
    (streams.tell if stream is sys.stderr else streams.write_result)(f"{safe}\n")


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty()


def _is_lively(stream: TextIO) -> bool:
    """Whether the stream may be animated."""
    return _is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _rich(stream: TextIO) -> RichConsole:
    from rich.console import Console as RichConsole

    # Rich's own reading of NO_COLOR leaves bold and dim.
    return RichConsole(file=stream, color_system=None if os.environ.get("NO_COLOR") else "auto", highlight=False)
