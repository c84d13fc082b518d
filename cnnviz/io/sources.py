"""INPUT arguments to an ordered stream of images, and the bytes of one image.

An INPUT is a file, an archive, a folder, a glob, ``-`` (standard input), a list (``.txt``, ``.csv``, ``.tsv``), or a
URL that fsspec understands. No image is opened while listing, and no more than one directory's names are held, so
that a folder of a million files starts at once and costs no memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import glob
import itertools
import os
import posixpath
import re
import stat
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from cnnviz.errors import CnnvizError, ImageError, nearest_file
from cnnviz.io import archives
from cnnviz.io.decode import IMAGE_SUFFIXES, SNIFF_BYTES, sniff
from cnnviz.io.faults import persistently
from cnnviz.io.fetch import MAX_FILE_BYTES, chunks, download, too_large
from cnnviz.io.label_tables import is_label_table, read_image_rows
from cnnviz.io.names import Names, safe_name
from cnnviz.io.patience import patiently
from cnnviz.io.walk import (
    Found,
    LocalFiles,
    RemoteFiles,
    Told,
    check_protocols,
    is_web,
    matching,
    open_remote,
    said,
    url_path,
    walk,
)
from cnnviz.io.walk import is_url as is_url  # which other modules find here

# Characters of a name in a message.
_SHOWN = 200
_LOCAL_URL = re.compile(r"^(?:file|local)://(?!.*::)")


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One image to explain, not yet opened.

    Attributes:
        uri: As found: a path or an fsspec URL. Bytes that are no UTF-8 are kept by ``surrogateescape``.
        name: Unique safe relative output stem with its suffix, ``/``-separated: never absolute, no ``..``,
            no control characters, every component at most 135 bytes long.
        index: Position in input order, from 0.
        label: From the list that named the image, when it has labels.
        folder: Name of the folder that holds the file.
        explicit: The user named this very file (argument, list, standard input).
        label_index: The class as an index, where a column of the list says that it holds indices.
    """

    uri: str
    name: str
    index: int
    label: str | None = None
    folder: str | None = None
    explicit: bool = False
    label_index: int | None = None


@dataclass(frozen=True, slots=True)
class SourceOptions:
    """How to read the INPUTs: at most ``limit`` images; ``null``: standard input is NUL-separated.

    ``told`` gets the path of each folder that is passed over because it is the output of a run; ``left_out`` says of
    the path or URL of an image whether it is left out.
    """

    limit: int | None = None
    null: bool = False
    told: Told | None = None
    left_out: Callable[[str], bool] | None = None


@dataclass(frozen=True, slots=True)
class _Found:
    uri: str
    name: str  # relative to its root, not yet safe
    label: str | None = None
    explicit: bool = False
    label_index: int | None = None


Finder = Callable[[], Iterator[_Found]]


def find_images(
    inputs: Sequence[str], options: SourceOptions = SourceOptions(), stdin: BinaryIO | None = None
) -> Iterator[ImageRef]:
    """The images of all INPUTs, in the order given, each folder in sorted order.

    Every regular file of a folder is listed, whatever its suffix; hidden files, and folders that are the output of
    a run, are passed over. Symlinked
    folders are followed, each once, and under their real place when that lies in the same folder, so that
    a loop ends. A path that fails (broken symlink, folder that cannot be listed, entry of a list that does
    not exist) is listed too, and :func:`read_bytes` says why.

    Args:
        inputs: INPUT arguments.
        options: Limit and separator.
        stdin: What ``-`` reads; the process's standard input when None.

    Raises:
        CnnvizError: At once, when an INPUT does not exist or matches nothing; later, when a list or a
            remote folder cannot be read.
    """
    inputs = [each for text in inputs for each in archives.expand(_LOCAL_URL.sub("", text))]
    finders = [_finder(text, options, stdin) for text in inputs]
    found = _with_members(itertools.chain.from_iterable(finder() for finder in finders))
    if options.left_out is not None:
        left_out = options.left_out
        found = (each for each in found if not left_out(each.uri))
    # The names of one walk are unique already: nothing need be remembered for a folder of a million files.
    walked = len(inputs) == 1 and inputs[0] != "-" and not os.path.isfile(inputs[0])
    walked = walked and not archives.is_archive(inputs[0])
    return itertools.islice(_number(found, None if walked else Names()), options.limit)


def _with_members(found: Iterable[_Found]) -> Iterator[_Found]:
    """Files of an archive that was named in its place; the archive too, where it cannot be read to its end."""
    for item in found:
        if not item.explicit or not archives.is_archive(item.uri) or archives.is_member(item.uri):
            yield item
            continue
        above = archives.stem(item.name)
        try:
            for name in archives.members(item.uri):
                uri = archives.uri_of(name, item.uri)
                yield _Found(uri, f"{above}/{name}", item.label, label_index=item.label_index)
        except ImageError:  # said where the archive itself is opened
            yield item


def _number(found: Iterable[_Found], names: Names | None) -> Iterator[ImageRef]:
    for index, item in enumerate(found):
        name = safe_name(item.name)
        if names is not None:
            name = names.unique(name)
        yield ImageRef(item.uri, name, index, item.label, _folder(item.uri), item.explicit, item.label_index)


def _folder(uri: str) -> str | None:
    path = "/" + url_path(uri) if is_url(uri) else os.path.abspath(uri)
    return os.path.basename(os.path.dirname(path)) or None


def _finder(text: str, options: SourceOptions, stdin: BinaryIO | None) -> Finder:
    """What lists one INPUT. Runs what can be checked before the first image."""
    if text == "-":
        return lambda: _from_lines(_split(stdin or sys.stdin.buffer, b"\0" if options.null else b"\n"), "")
    if is_url(text):
        return _remote(text, options.told)
    if os.path.isdir(text):
        return lambda: _walked(walk(LocalFiles(options.told), text))
    if os.path.lexists(text):
        suffix = os.path.splitext(text)[1].lower()
        if suffix == ".txt" or is_label_table(text):
            return lambda: _from_text(text) if suffix == ".txt" else _from_csv(text)
        return lambda: iter([_Found(text, os.path.basename(text), explicit=True)])
    if glob.has_magic(text):
        found = matching(lambda: LocalFiles(options.told), text, text)
        return lambda: _walked(found(), archives.is_archive(text))
    raise _missing(text)


def _missing(text: str) -> CnnvizError:
    parent, base = os.path.split(text.rstrip("/"))
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    message = f"INPUT {shown!r} does not exist"
    try:
        with os.scandir(parent or ".") as entries:
            names = [entry.name for entry in itertools.islice(entries, 10_000)]
            near = nearest_file(base, names, before=text.rstrip("/")[: -len(base)] if base else "")
    except (OSError, ValueError):
        return CnnvizError(message, f"The folder {parent!r} does not exist or cannot be read.")
    return CnnvizError(message, near or "Give an image, a folder, a glob in quotes, a list, a URL, or - .")


def _remote(url: str, told: Told | None) -> Finder:
    web = is_web(url)  # asking what a page is would fetch it
    if web and "*" not in url and not url.endswith("/"):
        return lambda: iter([_Found(url, posixpath.basename(url_path(url)), explicit=True)])
    files, path = open_remote(url)
    files.told = told
    magic = "*" in path if web else glob.has_magic(path)
    if web:
        kind = "directory" if path.endswith("/") else ""
    else:
        kind = _remote_kind(files, path, url, magic)
    if kind == "directory":
        return lambda: _walked(walk(files, path))
    if kind == "":
        found = matching(lambda: files, path, url)
        return lambda: _walked(found(), archives.is_archive(path))
    return lambda: iter([_Found(url, posixpath.basename(url_path(url)), explicit=True)])


def _remote_kind(files: RemoteFiles, path: str, url: str, magic: bool) -> str:
    """``file``, ``directory``, or empty for a pattern."""
    try:
        return str(persistently(lambda: patiently(lambda clock: files.fs.info(path)))["type"])
    except FileNotFoundError:
        if magic:
            return ""
        raise CnnvizError(f"INPUT {url!r} does not exist", "Check the URL.") from None
    except Exception as error:  # each backend has errors of its own
        raise CnnvizError(f"INPUT {url!r} cannot be read: {said(error)}", "Check the URL.") from error


def _walked(found: Found, explicit: bool = False) -> Iterator[_Found]:
    return (_Found(uri, name, explicit=explicit) for uri, name in found)


# Lists.


def _split(stream: BinaryIO, separator: bytes) -> Iterator[bytes]:
    """Records of a stream, as they arrive."""
    if separator == b"\n":
        for line in stream:
            yield line.rstrip(b"\r\n")
        return
    rest = b""
    while chunk := stream.read(1 << 16):
        *whole, rest = (rest + chunk).split(separator)
        yield from whole
    yield rest


def _from_lines(lines: Iterable[bytes], root: str) -> Iterator[_Found]:
    for line in lines:
        if line:
            yield _listed(os.fsdecode(line), root, None)


def _listed(entry: str, root: str, label: str | None) -> _Found:
    """An entry of a list: relative to the list's folder; named by its path from there."""
    if is_url(entry):
        if not is_web(entry):
            check_protocols(entry)
        return _Found(entry, posixpath.basename(url_path(entry)), label, explicit=True)
    path = entry if os.path.isabs(entry) else os.path.join(root, entry)
    inside = os.path.relpath(path, root or ".") if "\0" not in path else entry
    outside = inside.split(os.sep, 1)[0] == os.pardir
    return _Found(path, os.path.abspath(path) if outside else inside, label, explicit=True)


def _from_text(path: str) -> Iterator[_Found]:
    try:
        with open(path, "rb") as stream:
            if stream.read(3) != b"\xef\xbb\xbf":
                stream.seek(0)
            yield from _from_lines(_split(stream, b"\n"), os.path.dirname(path))
    except OSError as error:
        raise _unreadable_list(path, error) from error


def _from_csv(path: str) -> Iterator[_Found]:
    root = os.path.dirname(path)
    for row in read_image_rows(path):
        yield dataclasses.replace(_listed(row.path, root, row.label), label_index=row.index)


def _unreadable_list(path: str, error: OSError) -> CnnvizError:
    return CnnvizError(f"the list {path!r} cannot be read: {error.strerror}", "Check its permissions.")


def is_passed_over(ref: ImageRef, error: ImageError) -> bool:
    """Whether a file that cannot be decoded is one that merely lies among images: nobody named it, and its own name
    promises no image."""
    return error.kind in {"not-an-image", "empty"} and _is_unasked(ref)


def _is_unasked(ref: ImageRef) -> bool:
    return not ref.explicit and os.path.splitext(ref.name)[1].lower() not in IMAGE_SUFFIXES


def can_be_stray(ref: ImageRef) -> bool:
    """Whether :func:`is_stray` opens the file."""
    return _is_unasked(ref) and not is_url(ref.uri)


def is_stray(ref: ImageRef) -> bool:
    """Whether the first bytes of a file of this machine say that it will be passed over (:func:`is_passed_over`)."""
    if not can_be_stray(ref):
        return False
    try:
        with open(ref.uri, "rb") as stream:
            return sniff(stream.read(SNIFF_BYTES)) is None
    except (OSError, ValueError):
        return False


def read_bytes(ref: ImageRef) -> bytes:
    """The bytes of one image.

    If a file turns out not to be an image, only its first :data:`~cnnviz.io.decode.SNIFF_BYTES` bytes come back, which
    is enough to tell: a film that lies among the photographs is not read whole.

    Raises:
        ImageError: Of kind ``missing``, ``broken-symlink``, ``unreadable`` or ``too-large``.
    """
    with open_file(ref) as stream:
        return b"".join(chunks(stream))


@contextlib.contextmanager
def open_file(ref: ImageRef, cancelled: threading.Event | None = None) -> Iterator[BinaryIO]:
    """One image's file, at its beginning. A local file is not read before the stream is; a download lies on the disk.

    Args:
        ref: The image.
        cancelled: Ends the waiting for a server.

    Raises:
        ImageError: As :func:`read_bytes`, also for errors of reading within the block.
        CancelledError: When it was cancelled.
    """
    if ref.explicit and archives.is_archive(ref.uri) and not archives.is_member(ref.uri):
        raise archives.problem(ref.uri) or ImageError("unreadable", "the archive could not be read to its end")
    if is_url(ref.uri):
        with archives.read_member(ref.uri) if archives.is_member(ref.uri) else download(ref.uri, cancelled) as stream:
            yield stream
        return
    try:
        mode = os.stat(ref.uri).st_mode
        if stat.S_ISDIR(mode):
            os.listdir(ref.uri)  # says why, when it came here because it cannot be listed
            raise ImageError("unreadable", "a folder, where an image file was expected")
        if not stat.S_ISREG(mode):  # opening a pipe would wait for its writer
            raise ImageError("unreadable", "not a regular file (a pipe, a socket or a device)")
        with open(ref.uri, "rb") as stream:
            if os.fstat(stream.fileno()).st_size > MAX_FILE_BYTES and sniff(stream.read(SNIFF_BYTES)) is not None:
                raise too_large()
            stream.seek(0)
            yield stream
    except ValueError:
        if "\0" not in ref.uri:  # of who reads
            raise
        raise ImageError("missing", "a file name cannot hold a NUL character") from None
    except OSError as error:
        raise _unreadable(ref.uri, error) from error


def _unreadable(path: str, error: OSError) -> ImageError:
    if error.errno == errno.ELOOP or (error.errno == errno.ENOENT and os.path.islink(path)):
        return ImageError("broken-symlink", f"a symbolic link that leads nowhere ({os.readlink(path)!r})")
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
        why = "" if error.errno == errno.ENOENT else f": {error.strerror}"
        return ImageError("missing", f"there is no such file{why}")
    return ImageError("unreadable", f"cannot be read: {error.strerror or said(error)}")
