"""The HTTP routes keep to the description that the server gives of them, whatever they are sent."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from server.running import Running

HERE = Path(__file__).parent
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "ignored_auth",
]


@pytest.mark.slow
def test_routes_keep_to_their_description(
    run_server: Callable[..., Running], tmp_path: Path
) -> None:
    """Schemathesis sends valid and invalid requests; its report is the message of a failure."""
    server = run_server(api_keys=("right",), max_text=24)
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"]
    command += ["--header", "Authorization: Bearer right", "--checks", ",".join(CHECKS)]
    command += ["--max-examples", "5", "--generation-deterministic", "--no-color"]
    env = {**os.environ, "SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(HERE)}
    found = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
    with server.http(headers={"Authorization": "Bearer right"}) as client:
        answered = re.findall(
            r'requests_total{route="(\S+)",status="200"}', client.get("/metrics").text
        )
    wanted = {"/v1/chat/completions", "/v1/audio/speech", "/v1/audio/transcriptions"}
    assert wanted <= set(answered), "refusals alone say little"
