"""`omni download`: optional models from the package registry."""

import argparse

from omni_runtime.cli import ui
from omni_runtime.voice import smart_turn


def main(options: argparse.Namespace) -> int:
    """Download Smart Turn, the only optional model."""
    del options
    ui.note(f"downloading {smart_turn.PACKAGE} (12 MB) with pip")
    ui.say(str(smart_turn.download()))
    return 0
