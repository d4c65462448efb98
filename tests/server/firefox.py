"""Firefox, driven by the protocol that it speaks itself: WebDriver BiDi, without a driver."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import websockets.sync.client as websocket

from desk import Desk

FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
PREFERENCES = {
    "app.update.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "media.autoplay.default": 0,
    "media.navigator.permission.disabled": True,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "toolkit.telemetry.enabled": False,
}


class Firefox:
    """One tab. Problems that the page logs are collected."""

    def __init__(self, address: str) -> None:
        self._socket = websocket.connect(f"{address}/session", max_size=None)
        self._number = 0
        self.problems: list[str] = []
        self.call("session.new", capabilities={})
        self.call("session.subscribe", events=["log.entryAdded"])
        self._tab = self.call("browsingContext.getTree")["contexts"][0]["context"]

    def call(self, method: str, **params: Any) -> Any:
        """Send a command, and return its result. Raises AssertionError with Firefox' message.

        The page stands still for ever when Firefox' client of PulseAudio deadlocks: a device has
        changed, and the callback waits for a thread that waits for the callback's lock.
        """
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            try:
                found = json.loads(self._socket.recv(timeout=20))
            except TimeoutError:
                raise AssertionError(f"Firefox does not answer {method}") from None
            if found.get("id") == self._number:
                assert found["type"] == "success", found
                return found["result"]
            if found.get("method") == "log.entryAdded" and found["params"]["level"] == "error":
                self.problems.append(found["params"]["text"])

    def close(self) -> None:
        self._socket.close()

    def open(self, url: str) -> None:
        self.call("browsingContext.navigate", context=self._tab, url=url, wait="complete")

    def evaluate(self, script: str) -> Any:
        """Return the value of an expression: a string, a number or a truth value."""
        found = self.call(
            "script.evaluate",
            expression=script,
            target={"context": self._tab},
            awaitPromise=True,
            userActivation=True,
        )
        assert found["type"] == "success", found
        return found["result"].get("value")

    def text(self, selector: str) -> str:
        return self.evaluate(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")

    def until(self, selector: str, words: str, seconds: float = 20) -> None:
        """Wait until an element shows these words."""
        end = time.monotonic() + seconds
        while words not in (found := self.text(selector)):
            assert time.monotonic() < end, (words, found, self.problems)
            time.sleep(0.05)

    def click(self, selector: str) -> None:
        """Click with the mouse in the middle of an element."""
        place = self.evaluate(
            f"(() => {{ const box = document.querySelector({json.dumps(selector)})"
            ".getBoundingClientRect();"
            " return `${box.x + box.width / 2} ${box.y + box.height / 2}`; })()"
        )
        x, y = (round(float(value)) for value in place.split())
        moves = [{"type": "pointerMove", "x": x, "y": y}]
        moves += [{"type": kind, "button": 0} for kind in ("pointerDown", "pointerUp")]
        self._act({"type": "pointer", "id": "mouse", "actions": moves})

    def type(self, words: str) -> None:
        """Press the keys of these words."""
        keys = [
            {"type": kind, "value": letter} for letter in words for kind in ("keyDown", "keyUp")
        ]
        self._act({"type": "key", "id": "keyboard", "actions": keys})

    def _act(self, source: dict[str, Any]) -> None:
        self.call("input.performActions", context=self._tab, actions=[source])


ENTER = "\ue007"


@contextmanager
def firefox(desk: Desk) -> Iterator[Firefox]:
    """Start Firefox with a fresh profile and the sound devices of a desk."""
    profile = desk.folder / "profile"
    profile.mkdir(exist_ok=True)
    lines = [f"user_pref({json.dumps(k)}, {json.dumps(v)});" for k, v in PREFERENCES.items()]
    (profile / "user.js").write_text("\n".join(lines))
    command = [str(FIREFOX), "--headless", "--no-remote", "--profile", str(profile)]
    command += ["--remote-debugging-port", "0", "about:blank"]
    # Into a file: Firefox would stop in the middle of a test when a pipe that nobody reads is full.
    log = desk.folder / "firefox.log"
    with (
        log.open("wb") as file,
        subprocess.Popen(command, env=desk.env, stdout=subprocess.DEVNULL, stderr=file) as process,
    ):
        try:
            while not (found := re.search(r"listening on (ws://\S+)", log.read_text("utf-8"))):
                assert process.poll() is None, "Firefox did not start"
                time.sleep(0.1)
            with closing(Firefox(found[1])) as browser:
                yield browser
            assert not browser.problems, browser.problems
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
