"""What grows with the number of images, kept on the disk while a run gathers it; and the tables made of it."""

from __future__ import annotations

import csv
import io
import itertools
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cnnviz.errors import CnnvizError
from cnnviz.io.cells import guarded

_ROWS = 1024


class Spool:
    """Byte strings in a temporary file that vanishes with this object. For one thread."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._ends = array("q", [0])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def append(self, data: bytes) -> None:
        """Keep one more.

        Raises:
            CnnvizError: The temporary folder is full.
        """
        try:
            self._file.seek(self._ends[-1])
            self._file.write(data)
        except OSError as error:
            raise _full(error) from error
        self._ends.append(self._ends[-1] + len(data))

    def __getitem__(self, place: int) -> bytes:
        if not 0 <= place < len(self):
            raise IndexError(place)
        self._file.seek(self._ends[place])
        return self._file.read(self._ends[place + 1] - self._ends[place])


class VectorFile:
    """Vectors of one length, float32, in a temporary file that vanishes with this object. For one thread."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._length: int | None = None
        self._count = 0

    def append(self, vector: NDArray[Any]) -> None:
        """Keep one more [D].

        Raises:
            CnnvizError: Its length differs from that of the first, or the temporary folder is full.
        """
        if self._length is None:
            self._length = len(vector)
        if len(vector) != self._length:
            raise CnnvizError(
                f"The vectors of these images differ in length: {self._length} and {len(vector)}.",
                "Give --input-size, so that all images have one size.",
            )
        try:
            self._file.write(np.ascontiguousarray(vector, dtype="<f4").tobytes())
        except OSError as error:
            raise _full(error) from error
        self._count += 1

    def rows(self) -> NDArray[np.float32]:
        """All of them [N, D], read from the disk as they are used."""
        if not self._count or not self._length:
            return np.zeros((self._count, self._length or 0), dtype=np.float32)
        try:
            self._file.flush()
        except OSError as error:
            raise _full(error) from error
        return np.memmap(self._file, dtype="<f4", mode="r", shape=(self._count, self._length))


def write_npy(stream: BinaryIO, rows: NDArray[np.float32]) -> None:
    """A float32 array [N, D] as ``np.load`` reads it, block by block."""
    header = {"descr": "<f4", "fortran_order": False, "shape": rows.shape}
    np.lib.format.write_array_header_1_0(stream, header)
    for start in range(0, len(rows), _ROWS):
        stream.write(np.asarray(rows[start : start + _ROWS], dtype="<f4").tobytes())


def write_csv(stream: BinaryIO, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A comma-separated table in UTF-8. None is an empty cell; bytes of a name that are no UTF-8 are kept.

    Texts that a spreadsheet program would run as formulas are guarded (:mod:`cnnviz.io.cells`).
    """
    line = io.StringIO(newline="")
    writer = csv.writer(line, lineterminator="\n")
    for row in itertools.chain((header,), rows):
        writer.writerow(["" if cell is None else guarded(cell) if isinstance(cell, str) else cell for cell in row])
        stream.write(_bytes(line.getvalue()))
        line.seek(0)
        line.truncate()


def write_parquet(stream: BinaryIO, columns: Mapping[str, Sequence[object]]) -> None:
    """A Parquet table; needs pyarrow. Bytes of a name that are no UTF-8 are spelled out as ``\\xe9``.

    A column of whole numbers, floats or texts, by its first value that is not None; one of None alone is of texts.
    """
    import pyarrow
    import pyarrow.parquet

    kinds = {int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
    arrays = {}
    for name, cells in columns.items():
        first = next((cell for cell in cells if cell is not None), "")
        arrays[name] = pyarrow.array([_plain(cell) for cell in cells], type=kinds[type(first)])
    pyarrow.parquet.write_table(pyarrow.table(arrays), stream)


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _plain(cell: object) -> object:
    return _bytes(cell).decode("utf-8", "backslashreplace") if isinstance(cell, str) else cell


def _full(error: OSError) -> CnnvizError:
    return CnnvizError(
        f"The temporary folder {tempfile.gettempdir()} cannot be written to: {error.strerror}.",
        "Free some space, or set TMPDIR to another folder.",
    )
