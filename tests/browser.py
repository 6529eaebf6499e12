"""Headless Chromium, spoken to through its debugging pipe; nothing but the standard library.

The browser is `CHROMIUM` (a path) or the first of `chromium`, `chromium-browser`, `google-chrome` … on PATH.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import pathlib
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from typing import Any

NAMES = ("chromium", "chromium-browser", "chrome-headless-shell", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=shell", "--no-sandbox", "--no-zygote", "--single-process", "--disable-gpu", "--disable-dev-shm-usage",
    "--hide-scrollbars", "--no-first-run", "--remote-debugging-pipe",
)  # fmt: skip
PATIENCE_S = 60.0


def find_browser() -> str | None:
    """Path of a browser, or None."""
    if told := os.environ.get("CHROMIUM"):
        return shutil.which(told)
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One page of a running browser; made by `open_page`.

    Attributes:
        requests: addresses that the page asked for, `data:` left out.
        problems: uncaught errors and what was written to the console as an error.
    """

    def __init__(self, to_browser: int, from_browser: int):
        self._to, self._from = to_browser, from_browser
        self._buffer, self._number, self._session = b"", 0, None
        self._events: list[str] = []
        self.requests: list[str] = []
        self.problems: list[str] = []

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Calls a method of the DevTools protocol and waits for its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], max(end - time.monotonic(), 0))
            data = os.read(self._from, 1 << 20) if ready else b""
            if not data:
                raise RuntimeError(f"the browser said nothing for {PATIENCE_S:.0f} s, or has gone")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\0", 1)
        message = json.loads(line)
        method, params = message.get("method"), message.get("params", {})
        self._events.append(method)
        if method == "Network.requestWillBeSent" and not params["request"]["url"].startswith("data:"):
            self.requests.append(params["request"]["url"])
        if method == "Runtime.exceptionThrown":
            self.problems.append(str(params["exceptionDetails"]))
        if method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.problems.append(params["entry"]["text"])
        return message

    def attach(self) -> None:
        """Takes the first page that there is."""
        (target, *_) = [t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        self._session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def visit(self, url: str, *, width: int = 1200, height: int = 900, scheme: str = "light") -> None:
        """Loads a page with a window of this size; `scheme` is the colour scheme that the reader prefers."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._events.clear()
        self.call("Page.navigate", url=url)
        while "Page.loadEventFired" not in self._events:
            self._next()

    def run(self, expression: str) -> Any:
        """Value of a JavaScript expression; plain JSON types."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(str(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """Presses and lets go of a key, such as `press("Tab", 9)`."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def picture(self, path: pathlib.Path, *, clip: dict[str, float] | None = None) -> None:
        """Writes a PNG of the window, or of a part of the page."""
        more = {"clip": clip | {"scale": 1}, "captureBeyondViewport": True} if clip else {}
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png", **more)["data"]))


@contextlib.contextmanager
def open_page(browser: str) -> Iterator[Page]:
    """Starts a browser with an empty profile and ends it."""
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()

    # Chromium reads from 3 and writes to 4. High numbers here, so that the two copies cannot overwrite each other; no
    # `preexec_fn`, which must not be used beside threads.
    child_reads, child_writes = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 64) for fd in (to_read, from_write))
    os.close(to_read)
    os.close(from_write)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home, open(os.devnull, "r+b") as nothing:
        actions = [(os.POSIX_SPAWN_DUP2, nothing.fileno(), fd) for fd in (0, 1, 2)]
        actions += [(os.POSIX_SPAWN_DUP2, child_reads, 3), (os.POSIX_SPAWN_DUP2, child_writes, 4)]
        arguments = [browser, *FLAGS, f"--user-data-dir={home}/profile", "about:blank"]
        process = os.posix_spawn(browser, arguments, os.environ | {"HOME": home}, file_actions=actions, setpgroup=0)
        os.close(child_reads)
        os.close(child_writes)
        try:
            page = Page(to_write, from_read)
            page.attach()
            yield page
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            os.close(to_write)
            os.close(from_read)
