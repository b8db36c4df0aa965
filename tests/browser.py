"""A headless Chromium that a test drives by its DevTools protocol."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SECONDS = 60  # that a loaded machine may take for an answer
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",  # any that is free: it says which
    "--remote-allow-origins=*",
)


class Page:
    """A tab.

    Attributes:
      complaints: what the console has as errors and warnings, exceptions, and what was not loaded.
    """

    def __init__(self, socket: Any):
        self._socket, self._numbers = socket, itertools.count(1)
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        """A command of the protocol, and its answer."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": arguments}))
        while (message := self._receive()).get("id") != number:
            pass
        assert "error" not in message, (method, message["error"])
        return message["result"]

    def open(self, file: Path, width: int, height: int = 800, phone: bool = False) -> None:
        """Loads a file into a window of that size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Page.navigate", url=file.absolute().as_uri())
        while self._receive().get("method") != "Page.loadEventFired":
            pass

    def value(self, expression: str) -> Any:
        """What JavaScript's expression is."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """A key that has no character."""
        codes = {"ArrowLeft": 37, "ArrowRight": 39, "Home": 36, "End": 35}
        for kind in ("rawKeyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=codes[key],
            )

    def click(self, selector: str, across: float = 0.5) -> None:
        """The left button at a part of an element's width."""
        self.value(f"document.querySelector('{selector}').scrollIntoView({{block: 'center'}})")
        box = self.value(f"document.querySelector('{selector}').getBoundingClientRect().toJSON()")
        place = {"x": box["x"] + box["width"] * across, "y": box["y"] + box["height"] / 2}
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def _receive(self) -> dict[str, Any]:
        message = json.loads(self._socket.recv())
        method, event = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(event["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "warning"):
            self.complaints.append(str(event["args"]))
        elif method == "Log.entryAdded" and event["entry"]["level"] in ("error", "warning"):
            self.complaints.append(event["entry"]["text"])
        elif method == "Network.loadingFailed":
            self.complaints.append(str(event))
        elif method == "Network.requestWillBeSent":
            address = event["request"]["url"]
            if not address.startswith(("data:", "file:")):
                self.complaints.append(f"it asks for {address}")
        return message


@contextlib.contextmanager
def open_page() -> Iterator[Page]:
    """A tab of a Chromium of its own; where there is none the test is skipped."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    websocket = pytest.importorskip("websocket", reason="pip install websocket-client")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        words = [program, *ARGUMENTS, f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(
            words,
            env=os.environ | {"TMPDIR": profile},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            for line in process.stderr:
                if found := re.search(r"DevTools listening on ws://([^/]+)/", line):
                    break
            else:
                pytest.fail(f"{program} ends with code {process.wait()}")
            browser = f"http://{found[1]}/json/new?about:blank"
            address = json.loads(_put(browser))["webSocketDebuggerUrl"]
            with contextlib.closing(websocket.create_connection(address, SECONDS)) as socket:
                yield Page(socket)
        finally:
            process.terminate()
            process.communicate()


def _put(address: str) -> bytes:
    import urllib.request

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(address, method="PUT"), timeout=SECONDS) as answer:
        return answer.read()
