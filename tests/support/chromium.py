"""Headless Chromium over its debugging pipe: enough to open a page, move the pointer and ask what is shown."""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.pages import NAMES, chromium_path

_FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-extensions "
    "--disable-background-networking --disable-component-update --hide-scrollbars --remote-debugging-pipe"
).split()
_PATIENCE = 60.0


class Browser:
    """One tab."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back = to, back
        self._next, self._rest = 0, b""
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call("Page.setLifecycleEventsEnabled", enabled=True)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._next += 1
        message: dict[str, Any] = {"id": self._next, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self._next:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def _message(self) -> dict[str, Any]:
        until = time.monotonic() + _PATIENCE
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._back], [], [], max(0.0, until - time.monotonic()))
            chunk = os.read(self._back, 1 << 16) if ready else b""
            assert chunk, "Chromium does not answer"
            self._rest += chunk
        first, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(first)
        return message

    def open(self, page: Path, *, query: str = "", size: tuple[int, int] = (1300, 1000)) -> None:
        screen = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **screen)
        loader = self.call("Page.navigate", url=page.resolve().as_uri() + query)["loaderId"]
        # Its own load event: a question asked while one page gives way to the next is answered by neither.
        while not any(_tells_of_load(event, loader) for event in self.events):
            self.events.append(self._message())

    def ask(self, expression: str) -> Any:
        """The value of an expression in the page (which works whatever the page's policy says of scripts)."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        until = time.monotonic() + 20.0
        while not self.ask(expression):
            assert time.monotonic() < until, f"never true: {expression}"
            time.sleep(0.03)

    def point(self, x: float, y: float, *, click: bool = False) -> None:
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased") if click else ():
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode={"Tab": 9}[key])

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def requested(self) -> list[str]:
        """Every address that the page asked for."""
        sent = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    def complaints(self) -> list[str]:
        """What the browser's console says: refused by the policy, not found, thrown."""
        entries = [e["params"]["entry"]["text"] for e in self.events if e.get("method") == "Log.entryAdded"]
        return entries + [str(e["params"]) for e in self.events if e.get("method") == "Runtime.exceptionThrown"]


def _tells_of_load(event: dict[str, Any], loader: str) -> bool:
    params = event.get("params", {})
    return event.get("method") == "Page.lifecycleEvent" and (params["name"], params["loaderId"]) == ("load", loader)


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless Chromium; the test is skipped where there is none."""
    path = chromium_path()
    if path is None or os.name == "nt":
        pytest.skip(f"needs Chromium: none of {', '.join(NAMES)} is here")
    theirs_in, to = os.pipe()
    back, theirs_out = os.pipe()
    with tempfile.TemporaryDirectory(prefix="cnnviz-chromium-", ignore_cleanup_errors=True) as profile:
        # It reads from 3 and writes to 4: a small process puts the pipes there, whatever their numbers are here.
        place = "a, b = (os.dup(int(n)) for n in sys.argv[1:3]); os.dup2(a, 3); os.dup2(b, 4)"
        keep = "[os.set_inheritable(n, n < 5) for n in (a, b, 3, 4)]"
        code = f"import os, sys; {place}; {keep}; os.execv(sys.argv[3], sys.argv[3:])"
        # Its own home: no trace in the user's, and none of the user's settings.
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(theirs_in), str(theirs_out), path, *_FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(theirs_in, theirs_out), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env={**os.environ, "HOME": profile},
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            yield Browser(to, back)
        finally:
            process.kill()
            process.wait()
            os.close(to)
            os.close(back)
