"""Session fixture: the file of the tiny tokenizer."""

from pathlib import Path

import pytest

from inputs import reference


@pytest.fixture(scope="session")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    reference.write_tokenizer(path)
    return path
