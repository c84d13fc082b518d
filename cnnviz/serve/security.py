"""Who may ask, and how much: a wall around the application.

A page of another site must neither read nor start anything here, also when its name is made to resolve to this machine
(DNS rebinding). So a request needs the name and the port of this server as ``Host``, the token that was printed when it
was started (as a cookie that no script reads and no other site sends, or as ``Authorization: Bearer``), and, where it
changes anything, this server as ``Origin``.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

MOST_BYTES = 32 << 20
"""Bytes of a body: the largest image file that may be dropped."""
_POLICY = (
    "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}
_READS = frozenset({"GET", "HEAD"})
_OWN = frozenset({"same-origin", "none"})


@dataclass(frozen=True)
class Door:
    """Where the server is, and what opens it.

    Attributes:
        host: The address as URLs have it: ``127.0.0.1`` or ``[::1]``.
        port: The port.
        token: The secret of this server.
    """

    host: str
    port: int
    token: str

    @property
    def hosts(self) -> frozenset[str]:
        """What ``Host`` may be."""
        return frozenset(f"{name}:{self.port}" for name in (self.host, "localhost"))

    @property
    def cookie(self) -> str:
        """The name of the cookie. Cookies do not tell ports apart, so the port is in it."""
        return f"cnnviz-{self.port}"

    @property
    def url(self) -> str:
        """What a person opens."""
        return f"http://{self.host}:{self.port}/?token={self.token}"


class TooLargeError(Exception):
    """A body is larger than may be."""


class Wall:
    """Passes on what may be asked, and refuses the rest.

    Args:
        app: The application.
        door: Where it is.
        most: Bytes of a body.
    """

    def __init__(self, app: App, door: Door, most: int = MOST_BYTES) -> None:
        self.app, self.door, self.most = app, door, most

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        started = False

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": [*message.get("headers", ()), *self._headers(opened)]}
            await send(message)

        refused, opened = self._judged(scope)
        if refused is None and self._length(scope) > self.most:
            refused = 413, self._too_large()
        if refused is not None:
            await _say(answer, *refused)
            return
        try:
            await self.app(scope, self._bounded(receive), answer)
        except TooLargeError:
            if not started:
                await _say(answer, 413, self._too_large())

    def _judged(self, scope: MutableMapping[str, Any]) -> tuple[tuple[int, str] | None, bool]:
        """Why a request is refused (None: it is not), and whether it brought the token in its address."""
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        hosts = headers.get("host", [])
        if len(hosts) != 1 or hosts[0].lower() not in self.door.hosts:
            return (421, f"This server is {self.door.host}:{self.door.port}, and answers to no other name."), False
        bearer = self._is_token(_bearer(headers.get("authorization", [])))
        cookie = any(map(self._is_token, _cookies(headers.get("cookie", []), self.door.cookie)))
        method = scope["method"]
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        opened = method in _READS and scope["path"] == "/" and self._is_token(query.get("token", [""])[0])
        if not (bearer or cookie or opened):
            return (403, "Open the address that cnnviz serve printed: it holds the token that is missing here."), False
        origins = headers.get("origin", [])
        own = {f"http://{host}" for host in self.door.hosts}
        if any(origin not in own for origin in origins):
            return (403, "Requests of other sites are refused."), False
        if method not in _READS and not origins and not bearer:
            return (403, "A request that changes something needs an Origin, or the token as Authorization."), False
        site = headers.get("sec-fetch-site", ["none"])[0]
        if not (opened or bearer) and site not in _OWN:
            return (403, "Requests of other sites are refused."), False
        return None, opened

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode("utf-8", "replace"), self.door.token.encode())

    def _length(self, scope: MutableMapping[str, Any]) -> int:
        given = [value for name, value in scope["headers"] if name.lower() == b"content-length"]
        return int(given[0]) if given and given[0].isdigit() else 0

    def _too_large(self) -> str:
        return f"At most {self.most >> 20} MiB are taken."

    def _bounded(self, receive: Receive) -> Receive:
        """The body, until it is larger than may be, whatever its length was said to be."""
        seen = 0

        async def bounded() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self.most:
                    raise TooLargeError
            return message

        return bounded

    def _headers(self, opened: bool) -> list[tuple[bytes, bytes]]:
        made = dict(_HEADERS)
        if opened:
            made["set-cookie"] = f"{self.door.cookie}={self.door.token}; Path=/; HttpOnly; SameSite=Strict"
        return [(name.encode(), value.encode()) for name, value in made.items()]


def _bearer(values: list[str]) -> str:
    kind, _, token = (values[0] if len(values) == 1 else "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


def _cookies(values: list[str], name: str) -> list[str]:
    """All values of a cookie. Those of other servers on this machine come along: what they hold is passed over."""
    pairs = (part.strip().partition("=") for value in values for part in value.split(";"))
    return [text.strip('"') for key, _, text in pairs if key == name]


async def _say(send: Send, status: int, text: str) -> None:
    body = f"{text}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    # The rest of a body that is refused is not read: the connection cannot go on.
    headers += [(b"connection", b"close")] if status == 413 else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
