"""docs/deploy.md: its systemd unit is valid, and the command in it serves."""

import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "deploy.md"
OMNI = Path(sys.executable).parent / "omni"


def unit() -> str:
    """The indented block after the words that announce it."""
    lines = DOCUMENT.read_text("utf-8").partition("A systemd unit")[2].splitlines()[2:]
    end = next(i for i, line in enumerate(lines) if line and not line.startswith("    "))
    return "\n".join(line.removeprefix("    ") for line in lines[:end])


@pytest.fixture
def installed(tmp_path: Path, trained_bundle: Path) -> Path:
    """What the unit expects below /opt/omni: program, bundle, keys and a certificate."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "omni").symlink_to(OMNI)
    (tmp_path / "bundle").symlink_to(trained_bundle)
    (tmp_path / "keys").write_text("first\nsecond\n")
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    made += ["-subj", "/CN=omni.example", "-addext", "subjectAltName=DNS:omni.example"]
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    subprocess.run([*made, *files], check=True, capture_output=True)
    return tmp_path


@pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="needs systemd: apt install systemd"
)
def test_the_unit_is_valid(installed: Path) -> None:
    file = installed / "omni.service"
    file.write_text(unit().replace("/opt/omni", str(installed)))
    command = ["systemd-analyze", "verify", str(file)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0 and not found.stderr, found.stderr
    file.write_text(file.read_text().replace("TimeoutStopSec=30", "TimeoutStopSec=soon"))
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Failed to parse time value" in found.stderr, "the check can fail"


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")
def test_the_command_of_the_unit_serves(installed: Path) -> None:
    """https, a key of the file, the public host name; SIGTERM ends it as the unit expects."""
    line = re.search(r"^ExecStart=((?:.*\\\n)*.*)$", unit(), re.MULTILINE)
    assert line is not None
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = shlex.split(line[1].replace("\\\n", "").replace("/opt/omni", str(installed)))
    environment = {**os.environ, "XDG_CACHE_HOME": str(installed / "cache")}
    with subprocess.Popen([*words, "--port", str(port)], env=environment) as server:
        try:
            trusted = ssl.create_default_context(cafile=str(installed / "cert.pem"))
            with httpx.Client(verify=trusted, headers={"Host": "omni.example"}) as client:
                asked = {"extensions": {"sni_hostname": "omni.example"}}
                address = f"https://127.0.0.1:{port}"
                for _ in range(900):  # the kernels are compiled first
                    try:
                        assert client.get(f"{address}/health", **asked).status_code == 200
                        break
                    except httpx.ConnectError:
                        time.sleep(0.1)
                for key, status in (("second", 200), ("third", 401)):
                    headers = {"Authorization": f"Bearer {key}"}
                    found = client.get(f"{address}/v1/models", headers=headers, **asked)
                    assert found.status_code == status
            server.send_signal(signal.SIGTERM)
            assert f"SuccessExitStatus={server.wait(20)}" in unit().splitlines()
        finally:
            server.kill()
