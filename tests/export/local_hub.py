"""A hub of Hugging Face on this machine: the part of its HTTP interface that downloads use."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class LocalHub(ThreadingHTTPServer):
    """Serves the files of `folder` as `model`.

    The connection breaks in the middle of each file of `breaking`, once.
    """

    def __init__(self, model: str, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.model, self.folder = model, folder
        self.breaking: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: LocalHub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        hub = self.server
        if re.fullmatch(rf"/api/models/{hub.model}(/revision/[\w%.]+)?", self.path):
            names = sorted(path.name for path in hub.folder.iterdir())
            files = [{"rfilename": name} for name in names]
            about = json.dumps({"id": hub.model, "sha": COMMIT, "siblings": files}).encode()
            self._send(200, about, {}, body=True)
            return
        found = re.fullmatch(rf"/{hub.model}/resolve/\w+/([\w.-]+)", self.path)
        if found is None or not (path := hub.folder / found[1]).is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, body=False)
            return
        data = path.read_bytes()
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._send(206 if start else 200, data[start:], headers, body=body, name=path.name)

    def _send(
        self, status: int, data: bytes, headers: dict[str, str], *, body: bool, name: str = ""
    ) -> None:
        self.send_response(status)
        for header, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(header, value)
        self.end_headers()
        if not body:
            return
        if name in self.server.breaking:
            self.server.breaking.remove(name)
            data = data[: len(data) // 2]
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        del format, args


@contextmanager
def serving(model: str, folder: Path) -> Iterator[LocalHub]:
    hub = LocalHub(model, folder)
    thread = Thread(target=hub.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()
