"""What a foreign page, a foreign host or a stranger can reach: nothing."""

import asyncio
import base64
import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
import websockets.sync.client as websocket
from websockets.exceptions import ConnectionClosed, InvalidStatus

from omni_runtime.cli.serve import LogFormatter
from omni_runtime.events import AudioDelta
from omni_runtime.server import replies
from omni_runtime.server.connections import MAX_CONNECTIONS
from omni_runtime.server.content import parts_of
from omni_runtime.server.errors import ApiError
from omni_runtime.server.settings import Settings
from server.running import NAME, Running

CHAT = "/v1/chat/completions"
HELLO = {"model": NAME, "messages": [{"role": "user", "content": "Hello!"}]}
HANDSHAKE = (
    b"GET /v1/realtime HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def chat_with(url: str) -> dict:
    part = {"type": "image_url", "image_url": {"url": url}}
    return {"model": NAME, "messages": [{"role": "user", "content": [part]}]}


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil", "", "[::1"]
)
def test_a_foreign_host_name_is_dns_rebinding(server: Running, host: str) -> None:
    with server.http(headers={"Host": host}) as client:
        for path in ("/", "/v1/models", "/health"):
            assert client.get(path).status_code == 400
        assert client.post(CHAT, json=HELLO).status_code == 400
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(HANDSHAKE.replace(b"localhost", host.encode()))
        assert b" 400 " in connection.recv(100)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:{port}", "127.0.0.1:{port}", "[::1]:80"])
def test_names_of_this_machine(server: Running, host: str) -> None:
    with server.http(headers={"Host": host.format(port=server.port)}) as client:
        assert client.get("/health").status_code == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://["]
)
def test_a_foreign_page_can_neither_post_nor_connect(server: Running, origin: str) -> None:
    with server.http(headers={"Origin": origin}) as client:
        answer = client.post(CHAT, json=HELLO)
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
        assert "access-control-allow-origin" not in client.options(CHAT).headers
    with pytest.raises(InvalidStatus) as refused:
        websocket.connect(f"ws://127.0.0.1:{server.port}/v1/realtime", origin=origin)  # type: ignore[arg-type]
    assert refused.value.response.status_code == 403


def test_its_own_page_may(server: Running) -> None:
    with server.http(headers={"Origin": server.url}) as client:
        assert client.post(CHAT, json=HELLO).status_code == 200


@pytest.mark.parametrize(
    "url",
    ["http://169.254.169.254/latest", "https://example.com/a.png", "file:///etc/passwd",
     "ftp://x/y", "/etc/passwd", "data:text/plain,hello", "gopher://x", "jar:file:///x"],
)  # fmt: skip
def test_nothing_is_fetched_and_no_file_is_read(server: Running, url: str) -> None:
    with server.http() as client:
        answer = client.post(CHAT, json=chat_with(url))
    assert answer.status_code == 400
    assert "root:" not in answer.text


def test_files_below_the_media_folder_only(
    run_server: Callable[..., Running], tmp_path: Path, recording
) -> None:
    from server.test_chat import wav  # noqa: PLC0415

    folder = tmp_path / "media"
    folder.mkdir()
    (folder / "ten.wav").write_bytes(wav(recording("ten", 16_000), 16_000))
    (tmp_path / "secret.wav").write_bytes(wav(recording("ten", 16_000), 16_000))
    (folder / "link.wav").symlink_to(tmp_path / "secret.wav")
    server = run_server(media_folder=folder)

    def heard(url: str) -> int:
        part = {"type": "audio_url", "audio_url": {"url": url}}
        body = {"model": NAME, "messages": [{"role": "user", "content": [part]}]}
        with server.http() as client:
            return client.post(CHAT, json=body).status_code

    assert heard("file:///ten.wav") == 200
    outside = ["file:///../secret.wav", "file:///%2e%2e/secret.wav", "file:///link.wav",
               f"file://{tmp_path}/secret.wav", "file:///missing.wav", "file:///", "file://[",
               "file:///a%00b", f"file:///{'x' * 5000}"]  # fmt: skip
    assert {heard(url) for url in outside} == {400}


@pytest.mark.parametrize(
    "name", ["%5C%5Chost%5Cshare%5Cx", "C:/x", "c%3Ax", "//host/share/x", "/x", "a%5C..%5Cx"]
)
def test_names_of_windows_are_refused_unseen(tmp_path: Path, monkeypatch, name: str) -> None:
    """Windows connects to another machine, with the user's password, to look at such a path."""
    settings = Settings(NAME, media_folder=tmp_path)
    seen: list[Path] = []
    monkeypatch.setattr(Path, "resolve", lambda path: seen.append(path) or path)
    for url in (f"file:///{name}", "file://host/share/x"):
        with pytest.raises(ApiError, match="no such file"):
            parts_of([{"type": "audio_url", "audio_url": {"url": url}}], settings)
    assert seen == [tmp_path] * 2


def test_the_log_is_printable(server: Running, caplog) -> None:
    with caplog.at_level(logging.INFO, "omni.server"), server.http() as client:
        client.get("/%1b%5b2J%0a12:00:00%20forged")
    (line,) = [record.getMessage() for record in caplog.records if "forged" in record.getMessage()]
    assert line.isprintable() and "GET /%1B%5B2J%0A12%3A00%3A00%20forged 404" in line


def test_a_traceback_in_the_log_is_printable() -> None:
    try:
        raise ValueError("from a client: \x1b[2J\x9b31m")
    except ValueError as error:
        record = logging.LogRecord("omni", logging.ERROR, "", 0, "failed", (), None)
        record.exc_info = (type(error), error, error.__traceback__)
    lines = LogFormatter("%(message)s").format(record).splitlines()
    assert lines[0] == "failed" and lines[-1] == "ValueError: from a client: [2J31m"


def test_keys(run_server: Callable[..., Running]) -> None:
    server = run_server(api_keys=("right", "other"))
    with server.http() as client:
        for key in (None, "wrong", "righ", "right2"):
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            assert client.get("/v1/models", headers=headers).status_code == 401
            assert client.get("/metrics", headers=headers).status_code == 401
        for key in ("right", "other"):
            headers = {"Authorization": f"bearer {key}"}
            assert client.get("/v1/models", headers=headers).status_code == 200
        assert client.get("/health").status_code == client.get("/").status_code == 200
    address = f"ws://127.0.0.1:{server.port}/v1/realtime"
    with pytest.raises(InvalidStatus) as refused:
        websocket.connect(address)
    assert refused.value.response.status_code == 401
    offered = ["realtime", "openai-insecure-api-key.right"]
    with websocket.connect(address, subprotocols=offered) as connection:  # type: ignore[list-item]
        assert json.loads(connection.recv())["type"] == "session.created"
        assert connection.subprotocol == "realtime"


def test_keys_are_compared_in_constant_time(monkeypatch) -> None:
    compared: list[bytes] = []
    import hmac  # noqa: PLC0415

    whole = hmac.compare_digest

    def spy(a: bytes, b: bytes) -> bool:
        compared.append(b)
        return whole(a, b)

    monkeypatch.setattr("omni_runtime.server.settings.hmac.compare_digest", spy)
    settings = Settings(NAME, api_keys=("k1-secret", "k2-secret"))
    assert settings.allows_key("k1-secret") and not settings.allows_key("x")
    assert not settings.allows_key("") and compared == [b"k1-secret", b"k2-secret"] * 3
    assert "secret" not in repr(settings)


def test_large_and_malformed_bodies(run_server: Callable[..., Running]) -> None:
    server = run_server(max_body=2**20)
    deep = b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with server.http() as client:
        for body in (b"", b"{", b"[]", b"null", b'{"messages": 1}', b"\xff\xfe", deep):
            answer = client.post(CHAT, content=body)
            assert answer.status_code == 400, body[:20]
            assert answer.json()["error"]["message"]
        assert client.post(CHAT, content=b"x" * (2**20 + 1)).status_code == 413

        def endless():
            for _ in range(2000):
                yield b"x" * 2**16

        assert client.post(CHAT, content=endless()).status_code == 413
        bad = chat_with("data:image/png;base64,@@@@")
        assert client.post(CHAT, json=bad).status_code == 400
        junk = chat_with("data:image/png;base64," + base64.b64encode(b"junk").decode())
        assert client.post(CHAT, json=junk).status_code == 400
    with socket.create_connection(("127.0.0.1", server.port)) as huge:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1073741824\r\n\r\n"
        huge.sendall(head.encode())
        huge.settimeout(10)
        assert b" 413 " in huge.recv(100)


def test_an_internal_error_tells_nothing(run_server: Callable[..., Running], monkeypatch) -> None:
    server = run_server()
    monkeypatch.setattr("omni_runtime.server.chat.parts_of", lambda *_: 1 / 0)
    with server.http() as client:
        answer = client.post(CHAT, json=HELLO)
    assert answer.status_code == 500
    assert "division" not in answer.text and "Traceback" not in answer.text


def test_too_many_requests_are_told_when_to_come_again(
    run_server: Callable[..., Running], monkeypatch
) -> None:
    server = run_server(parallel=1, queue=1)
    release, waiting = threading.Event(), threading.Semaphore(0)
    real = replies.events

    async def slow(*given):
        waiting.release()
        while not release.is_set():
            await asyncio.sleep(0.01)
        async for event in real(*given):
            yield event

    monkeypatch.setattr("omni_runtime.server.chat.events", slow)

    def post() -> int:
        with server.http() as client:
            return client.post(CHAT, json=HELLO).status_code

    with ThreadPoolExecutor() as pool, server.http() as client:
        accepted = [pool.submit(post)]
        assert waiting.acquire(timeout=10), "the first one runs"
        accepted.append(pool.submit(post))
        while not any(line.endswith(" 1.0") for line in _waiting(client)):
            pass
        answer = client.post(CHAT, json=HELLO)
        assert answer.status_code == 503 and answer.headers["retry-after"]
        release.set()
        assert [one.result() for one in accepted] == [200, 200]


def _waiting(client: httpx.Client) -> list[str]:
    lines = client.get("/metrics").text.splitlines()
    return [line for line in lines if line.startswith("omni_waiting_requests")]


def test_responses_carry_the_security_headers(server: Running) -> None:
    with server.http() as client:
        for path in ("/", "/health", "/page/nothing.js"):
            headers = client.get(path).headers
            assert "default-src 'none'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
        assert client.get("/page/../conftest.py").status_code == 404
        assert client.get("/page/%2e%2e/app.py").status_code == 404


def test_sockets_that_are_flooded_or_fed_with_junk(server: Running) -> None:
    address = f"ws://127.0.0.1:{server.port}/v1/realtime"
    empty = json.dumps({"type": "input_audio_buffer.append", "audio": "AAAA" * 2})
    with websocket.connect(address) as connection:
        connection.recv()
        for junk in ("", "{", "[]", "null", "[" * 50_000, '{"type": 7}', '{"type": "x"}'):
            connection.send(junk)
            assert json.loads(connection.recv())["type"] == "error"
        odd = {"type": "input_audio_buffer.append", "audio": "AAA="}
        connection.send(json.dumps(odd | {"audio": "%%%"}))
        assert json.loads(connection.recv())["error"]["code"] == "invalid_request"
        data = empty.encode()
        frame = bytes([0x81, 0x80 | len(data)]) + bytes(4) + data  # masked with zeros
        for _ in range(100):
            connection.socket.sendall(frame * 1000)
        connection.send(json.dumps({"type": "input_audio_buffer.clear"}))
        assert json.loads(connection.recv(timeout=60))["type"] == "input_audio_buffer.cleared"
    with websocket.connect(address, max_size=None) as connection:
        connection.recv()
        with pytest.raises(ConnectionClosed):
            connection.send("x" * (17 * 2**20))
            connection.recv()


def test_sessions_are_limited(run_server: Callable[..., Running]) -> None:
    server = run_server(sessions=1)
    address = f"ws://127.0.0.1:{server.port}/v1/realtime"
    with websocket.connect(address) as connection:
        connection.recv()
        with pytest.raises(InvalidStatus) as refused:
            websocket.connect(address)
        assert refused.value.response.status_code == 503
        assert refused.value.response.headers["Retry-After"]


HALVES = {
    "nothing": b"",
    "half a head": b"GET /health HTTP/1.1\r\nHost: localh",
    "half a body": b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
    b'Content-Length: 100\r\n\r\n{"mess',
}
HALF_A_FRAME = b"\x81\xfe\x10\x00mask{"


def ended(half_open: socket.socket) -> float:
    """Read until the server hangs up; returns the seconds that took."""
    started = time.monotonic()
    half_open.settimeout(10)
    with suppress(ConnectionResetError):
        while half_open.recv(2**16):
            pass
    return time.monotonic() - started


def test_half_open_sockets_are_freed_and_hold_nobody(run_server: Callable[..., Running]) -> None:
    server = run_server(head_seconds=1.0, body_seconds=1.5, ping_seconds=0.5, sessions=1)
    with ExitStack() as stack:
        sockets = []
        for sent in [*HALVES.values()] * 20 + [HANDSHAKE + HALF_A_FRAME]:
            one = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            one.sendall(sent)
            sockets.append(one)
        with server.http() as client:
            begun = time.monotonic()
            assert client.post(CHAT, json=HELLO).status_code == 200
            assert time.monotonic() - begun < 1.0, "others are not held"
        assert all(ended(one) < 3.0 for one in sockets)
    address = f"ws://127.0.0.1:{server.port}/v1/realtime"
    with websocket.connect(address) as connection:  # the only session is free again
        assert json.loads(connection.recv())["type"] == "session.created"
        time.sleep(2.5)  # a client that answers pings may be silent for longer than all limits
        connection.send(json.dumps({"type": "input_audio_buffer.clear"}))
        assert json.loads(connection.recv())["type"] == "input_audio_buffer.cleared"


@pytest.mark.parametrize("sent", ["half a head", "half a body"])
def test_many_half_open_sockets_keep_nobody_out(
    run_server: Callable[..., Running], sent: str
) -> None:
    server = run_server(head_seconds=60.0, body_seconds=60.0)
    with ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS + 10):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            one.sendall(HALVES[sent])
        with server.http() as client:
            assert client.get("/health").status_code == 200


def test_half_a_second_request_is_freed_too(run_server: Callable[..., Running]) -> None:
    server = run_server(head_seconds=1.0)
    whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as one:
        one.sendall(whole)
        assert b" 200 " in one.recv(2**16)
        one.sendall(whole[:20])
        assert 0.9 < ended(one) < 3.0


def test_a_client_that_does_not_read_frees_its_slot(
    run_server: Callable[..., Running], monkeypatch
) -> None:
    server = run_server(parallel=1, write_seconds=0.5)

    async def endless(*_):
        while True:
            yield AudioDelta(np.zeros(2**16, np.float32), 24_000, 0.0, 0, 0)
            await asyncio.sleep(0)

    body = json.dumps({"input": "Hello!", "response_format": "pcm"}).encode()
    head = "POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
    with socket.create_connection(("127.0.0.1", server.port)) as deaf, monkeypatch.context() as p:
        p.setattr("omni_runtime.server.speech.events", endless)
        deaf.sendall(f"{head}{len(body)}\r\n\r\n".encode() + body)
        with server.http() as client:
            while "omni_active_requests 1.0" not in client.get("/metrics").text:
                time.sleep(0.01)
            begun = time.monotonic()
            while "omni_active_requests 0.0" not in client.get("/metrics").text:
                assert time.monotonic() - begun < 10
                time.sleep(0.05)


def test_a_session_whose_client_does_not_read_ends(run_server: Callable[..., Running]) -> None:
    server = run_server(sessions=1, write_seconds=0.5)
    asked = json.dumps({"type": "x" * 2**16}).encode()
    frame = bytes([0x81, 0x80 | 127]) + len(asked).to_bytes(8, "big") + bytes(4) + asked
    with socket.create_connection(("127.0.0.1", server.port)) as deaf:
        deaf.sendall(HANDSHAKE)
        deaf.settimeout(0.2)
        with suppress(OSError):  # until both directions are full, or the server has hung up
            while True:
                deaf.sendall(frame)
        begun = time.monotonic()
        while server.engine._entries:
            assert time.monotonic() - begun < 10
            time.sleep(0.05)


def test_slow_requests_that_arrive_in_time_are_answered(
    run_server: Callable[..., Running],
) -> None:
    server = run_server(head_seconds=2.0, body_seconds=2.0)
    body = json.dumps(HELLO).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    request = head.encode() + body
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        for start in range(0, len(request), 20):
            slow.sendall(request[start : start + 20])
            time.sleep(0.1)
        slow.settimeout(10)
        assert b" 200 " in slow.recv(100)
