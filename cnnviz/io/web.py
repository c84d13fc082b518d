"""Files behind http:// and https://: read with the standard library, so that nothing need be installed for them.

What a server does wrong is told apart: no such file, no access, a failure, a circle, silence, a broken connection.
"""

from __future__ import annotations

import base64
import functools
import http.client
import socket
import ssl
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, BinaryIO

from cnnviz.errors import ImageError
from cnnviz.io import patience
from cnnviz.io.walk import said

# What may stand in an address as it is; anything else is written as %XX.
_PLAIN = "!#$%&'()*+,/:;=?@[]~"


def open_web(url: str, clock: patience.Clock, start: int = 0) -> BinaryIO:
    """The answer to a GET request, to read from; its connections are shut when the clock's owner gives up.

    Args:
        url: The address.
        clock: Of who waits.
        start: The byte that is asked for first. A server that can begin there answers with status 206, another with
            the whole.

    Raises:
        ImageError: Of kind ``missing``, ``unreadable`` or ``timed-out``; the message says what the server did.
    """
    try:
        opener = urllib.request.build_opener(_Plain(clock), _Secure(clock))
        request = _request(url)
        if start:
            request.add_header("Range", f"bytes={start}-")
        response: BinaryIO = opener.open(request, timeout=patience.STALL_SECONDS)
    except Exception as error:
        raise web_error(error) from error
    return response


class _Plain(urllib.request.HTTPHandler):
    def __init__(self, clock: patience.Clock) -> None:
        super().__init__()
        self._clock = clock

    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_tracked(http.client.HTTPConnection, self._clock), req)


class _Secure(urllib.request.HTTPSHandler):
    def __init__(self, clock: patience.Clock) -> None:
        super().__init__()
        self._clock = clock

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_tracked(http.client.HTTPSConnection, self._clock), req)


def _tracked(kind: type[http.client.HTTPConnection], clock: patience.Clock) -> Any:
    """Connections of this kind that the clock can shut."""

    def open_connection(*args: Any, **options: Any) -> http.client.HTTPConnection:
        connection = kind(*args, **options)
        connect = connection.connect

        def connect_and_tell() -> None:
            connect()
            # Not the connection: it forgets its socket when the answer has begun.
            clock.ends.append(functools.partial(connection.sock.shutdown, socket.SHUT_RDWR))

        connection.connect = connect_and_tell  # type: ignore[method-assign]
        return connection

    return open_connection


def _request(url: str) -> urllib.request.Request:
    parts = urllib.parse.urlsplit(url)
    access, _, host = parts.netloc.rpartition("@")
    path, query = (urllib.parse.quote(part, safe=_PLAIN) for part in (parts.path, parts.query))
    headers = {"User-Agent": "cnnviz", "Accept-Encoding": "identity"}
    if access:
        secret = base64.b64encode(urllib.parse.unquote(access).encode()).decode()
        headers["Authorization"] = f"Basic {secret}"
    return urllib.request.Request(urllib.parse.urlunsplit((parts.scheme, host, path, query, "")), headers=headers)


def web_error(error: Exception) -> ImageError:
    """What went wrong between us and a server, as a sentence."""
    if isinstance(error, ImageError):
        return error
    if isinstance(error, urllib.error.HTTPError):
        with error:
            return _status(error)
    cause: Any = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return ImageError("timed-out", patience.stalled())
    if isinstance(cause, ConnectionRefusedError):
        return ImageError("unreadable", "no server listens there (connection refused)")
    if isinstance(cause, socket.gaierror):
        return ImageError("unreadable", f"there is no such host ({cause.strerror})")
    if isinstance(cause, ssl.SSLError):
        return ImageError("unreadable", f"no secure connection can be made: {said(cause)}")
    if isinstance(cause, (http.client.IncompleteRead, ConnectionError, http.client.RemoteDisconnected)):
        return ImageError("unreadable", f"the server broke off the connection ({said(cause)})")
    if isinstance(cause, (http.client.InvalidURL, UnicodeError, ValueError)):
        return ImageError("unreadable", f"this is not an address that can be asked for: {said(cause)}")
    if isinstance(cause, http.client.HTTPException):
        return ImageError("unreadable", f"the answer is not HTTP ({type(cause).__name__}: {said(cause)})")
    return ImageError("unreadable", f"cannot be read: {said(cause)}")


def _status(error: urllib.error.HTTPError) -> ImageError:
    code, words = error.code, f"{error.code} {error.reason or ''}".strip()
    if code in (404, 410):
        return ImageError("missing", f"there is no such file: the server answers {words}")
    if code in (401, 403, 407, 451):
        return ImageError("unreadable", f"the server refuses access: {words}")
    if 300 <= code < 400:
        circle = "infinite loop" in str(error.reason)
        what = "sends from one address to the next without an end" if circle else f"sends elsewhere: {words}"
        return ImageError("unreadable", f"the server {what}")
    if code >= 500:
        return ImageError("unreadable", f"the server has failed: {words}")
    return ImageError("unreadable", f"the server answers {words}")
