"""The HTTP routes keep to the description that the server gives of them, whatever they are sent."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from server.running import Running

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


def test_routes_keep_to_their_description(
    run_server: Callable[..., Running], tmp_path: Path
) -> None:
    """Schemathesis sends valid and invalid requests; its report is the message of a failure."""
    server = run_server(api_keys=("right",), max_text=24)
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"]
    command += ["--header", "Authorization: Bearer right", "--checks", ",".join(CHECKS)]
    command += ["--max-examples", "5", "--generation-deterministic", "--no-color"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
