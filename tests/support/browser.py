"""A real Chromium without a screen, spoken to by the DevTools protocol over a pipe."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

CHROMIUM = "/usr/bin/chromium"
_PATIENCE = 20.0

_KEYS: dict[str, tuple[int, str]] = {
    "Enter": (13, "\r"), "Escape": (27, ""), "Backspace": (8, ""), "Tab": (9, ""), "ArrowLeft": (37, ""),
    "ArrowUp": (38, ""), "ArrowRight": (39, ""), "ArrowDown": (40, ""), "Home": (36, ""), "End": (35, ""),
    "PageUp": (33, ""), "PageDown": (34, ""),
}  # fmt: skip


class Browser:
    """One browser with a profile of its own; `with` ends it."""

    def __init__(self) -> None:
        self._profile = tempfile.TemporaryDirectory(prefix="lamella-chromium-", ignore_cleanup_errors=True)
        pipes = [*os.pipe(), *os.pipe()]
        # Out of the way of 3 and 4, which the browser wants.
        to_read, self._to, self._from, to_write = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in pipes)
        for fd in pipes:
            os.close(fd)

        self._process = subprocess.Popen(
            [
                # The browser reads from 3 and writes to 4.
                "/bin/bash", "-c", f'exec "$0" "$@" 3<&{to_read} 4>&{to_write}', CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run",
                "--no-default-browser-check", "--disable-extensions", "--hide-scrollbars", "--force-color-profile=srgb",
                "--remote-debugging-pipe", f"--user-data-dir={self._profile.name}", "about:blank",
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            pass_fds=(to_read, to_write), start_new_session=True,
        )  # fmt: skip
        os.close(to_read)
        os.close(to_write)
        self._buffer = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        with_group = subprocess.run(["pkill", "-KILL", "-s", str(self._process.pid)], check=False)
        assert with_group.returncode in (0, 1)
        os.close(self._to)
        os.close(self._from)
        self._profile.cleanup()

    def page(self, *, width: int = 1360, height: int = 860) -> Page:
        """Open a tab."""
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        page.size(width, height)
        return page

    def call(self, method: str, parameters: dict[str, Any] | None = None, session: str | None = None) -> dict[str, Any]:
        """Ask for something and return the result; events that come meanwhile are kept."""
        self._number += 1
        number = self._number
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters or {}}
        if session is not None:
            message["sessionId"] = session
        view = memoryview(json.dumps(message).encode() + b"\0")
        while view:
            view = view[os.write(self._to, view) :]
        while True:
            answer = self._receive(_PATIENCE)
            assert answer is not None, f"{method}: the browser does not answer"
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def pump(self, seconds: float) -> None:
        """Take in events for a while."""
        answer = self._receive(seconds)
        if answer is not None:
            self.events.append(answer)

    def _receive(self, patience: float) -> dict[str, Any] | None:
        end = time.monotonic() + patience
        while b"\0" not in self._buffer:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self._from], [], [], left)[0]:
                return None
            piece = os.read(self._from, 1 << 20)
            assert piece, "the browser has ended"
            self._buffer += piece
        raw, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        return message


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    def call(self, method: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask this tab for something."""
        return self._browser.call(method, parameters, self._session)

    def size(self, width: int, height: int) -> None:
        """Set the size of what is seen."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )

    def colours(self, scheme: str) -> None:
        """Prefer ``dark`` or ``light``."""
        self.call("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})

    def go(self, address: str) -> None:
        """Open an address."""
        answer = self.call("Page.navigate", {"url": address})
        assert "errorText" not in answer, answer

    def run(self, script: str) -> Any:
        """Evaluate an expression, a promise's value included."""
        answer = self.call(
            "Runtime.evaluate", {"expression": script, "returnByValue": True, "awaitPromise": True, "userGesture": True}
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, script: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            # While one page gives way to the next there may be no document: then it is not true yet.
            value = self.run(f"(() => {{ try {{ return Boolean({script}) }} catch {{ return false }} }})()")
            if value:
                return
            self._browser.pump(0.03)
        raise AssertionError(f"never true: {script}\n{self.text()}")

    def text(self) -> str:
        """Return what can be read on the page."""
        return str(self.run("document.body.innerText"))

    def texts(self, selector: str) -> list[str]:
        """Return the text of all elements that match."""
        found: list[str] = self.run(f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.textContent)")
        return found

    def press(self, *keys: str) -> None:
        """Press keys, each by its name or as a character."""
        for key in keys:
            code, text = _KEYS.get(key, (ord(key[0].upper()), key))
            event: dict[str, Any] = {"key": key, "windowsVirtualKeyCode": code, "code": key if key in _KEYS else ""}
            self.call("Input.dispatchKeyEvent", {**event, "type": "keyDown" if text else "rawKeyDown", "text": text})
            self.call("Input.dispatchKeyEvent", {**event, "type": "keyUp"})

    def write(self, text: str) -> None:
        """Put text where the cursor is."""
        self.call("Input.insertText", {"text": text})

    def click(self, selector: str) -> None:
        """Click in the middle of the first element that matches, as a mouse does."""
        where = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'nearest'}});"
            " const r = e.getBoundingClientRect();"
            " const left = Math.max(r.left, 0), right = Math.min(r.right, innerWidth);"
            " return [(left + right) / 2, (r.top + r.bottom) / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call(
                "Input.dispatchMouseEvent",
                {"type": kind, "x": where[0], "y": where[1], "button": "left", "clickCount": 1},
            )

    def picture(self, path: Path) -> None:
        """Keep what is seen as a PNG."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", {"format": "png"})["data"]))

    def requested(self) -> list[str]:
        """Return the address of everything that was asked for so far."""
        return [
            event["params"]["request"]["url"]
            for event in self._browser.events
            if event.get("method") == "Network.requestWillBeSent" and event.get("sessionId") == self._session
        ]

    def complaints(self) -> list[str]:
        """Return errors of scripts, and what the browser complained of."""
        found: list[str] = []
        for event in self._browser.events:
            if event.get("sessionId") != self._session:
                continue
            if event["method"] == "Runtime.exceptionThrown":
                details = event["params"]["exceptionDetails"]
                found.append(str(details.get("exception", {}).get("description", details["text"])))
            elif event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
                found.append(f"{event['params']['entry']['text']} {event['params']['entry'].get('url', '')}")
        return found


def until(condition: Callable[[], object], what: Sequence[str] | str) -> None:
    """Wait until *condition* holds."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"never true: {what}")
