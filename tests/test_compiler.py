"""C that is compiled where it runs, kept, and never loaded from where others write."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cnnviz.io import compiler
from cnnviz.io.compiler import compiled

SOURCE = "int answer(void) { return 42; }"
pytestmark = pytest.mark.skipif(sys.platform == "win32" or shutil.which("cc") is None, reason="no C compiler")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Another user's cache, and nothing compiled yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("CC", "CNNVIZ_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    compiled.cache_clear()
    yield
    compiled.cache_clear()


def kept(folder: Path) -> list[Path]:
    return sorted((folder / "cnnviz-compiled").glob("*.so"))


def answer(source: str = SOURCE) -> int:
    library = compiled(source)
    assert library is not None
    found: int = library.answer()
    return found


def test_what_was_compiled_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert answer() == 42
    (made,) = kept(tmp_path)
    assert stat.S_IMODE(made.stat().st_mode) == stat.S_IMODE(made.parent.stat().st_mode) == 0o700
    compiled.cache_clear()
    monkeypatch.setattr(subprocess, "run", None)
    assert answer() == 42


@pytest.mark.parametrize("others", ["file", "folder"])
def test_what_others_can_write_is_not_loaded(others: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer()
    (made,) = kept(tmp_path)
    (made if others == "file" else made.parent).chmod(0o777)
    compiled.cache_clear()
    runs = []
    plain = subprocess.run

    def counted(*args: Any, **kwargs: Any) -> Any:
        runs.append(args)
        return plain(*args, **kwargs)

    monkeypatch.setattr(subprocess, "run", counted)
    assert answer() == 42
    assert runs


def test_another_source_and_another_compiler_are_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer()
    assert answer(SOURCE.replace("42", "43")) == 43
    compiled.cache_clear()
    monkeypatch.setenv("CC", "cc -DOTHER")
    answer()
    assert len(kept(tmp_path)) == 3


def test_a_broken_file_is_made_anew(tmp_path: Path) -> None:
    answer()
    (made,) = kept(tmp_path)
    compiled.cache_clear()
    made.unlink()
    made.write_bytes(b"no library")
    made.chmod(0o700)
    assert answer() == 42
    assert made.read_bytes()[:4] == b"\x7fELF" or sys.platform == "darwin"


@pytest.mark.parametrize("bytes_left", [100, 4096, 8000])
def test_a_library_that_was_cut_off_is_made_anew(bytes_left: int, tmp_path: Path) -> None:
    """To load it would end the process."""
    answer()
    (made,) = kept(tmp_path)
    whole = made.read_bytes()
    compiled.cache_clear()
    made.unlink()  # what lies there is loaded
    made.write_bytes(whole[:bytes_left])
    made.chmod(0o700)
    assert answer() == 42
    assert len(made.read_bytes()) == len(whole)


def test_nothing_is_kept_where_others_can_exchange_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared / "mine"))
    assert answer() == 42
    assert not list(shared.iterdir())


def test_nothing_but_libraries_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of one that was kept nor of one that could not be."""
    answer()
    monkeypatch.setattr(compiler, "_keep", refused)
    assert answer(SOURCE.replace("42", "43")) == 43
    assert {path.suffix for path in (tmp_path / "cnnviz-compiled").iterdir()} == {".so", ".sha256"}


def refused(made: str, kept: str) -> None:
    raise OSError(28, "No space left on device")


def test_who_wants_no_cache_gets_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNVIZ_CACHE_DIR", "")
    assert answer() == 42
    assert not kept(tmp_path)


def test_a_cache_that_cannot_be_written_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "cnnviz-compiled").write_text("in the way")
    assert answer() == 42


@pytest.mark.parametrize("chosen", ["false", "no-such-compiler", "true", 'gcc "'])
def test_without_a_compiler_there_is_nothing(chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", chosen)
    assert compiled(SOURCE) is None


def test_source_that_does_not_compile_is_nothing() -> None:
    assert compiled("int answer(void) { return }") is None


def test_options_that_a_compiler_does_not_know_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "_MORE", ("-fno-such-option-anywhere",))
    assert answer() == 42
