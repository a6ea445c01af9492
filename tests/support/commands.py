"""`python -m stream` as a person runs it: a process of its own, with no settings but those that a test gives."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def environment(settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment with just the settings given: `kafka` becomes TOUCHSTREAM_KAFKA."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TOUCHSTREAM_")}
    ours = {f"TOUCHSTREAM_{name.upper()}": value for name, value in (settings or {}).items()}
    return {**kept, "PYTHONPATH": str(ROOT), **ours}


def run_stream(
    *arguments: str, settings: Mapping[str, str] | None = None, given: str = "", timeout_s: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, in an empty folder; `given` is its STDIN."""
    with tempfile.TemporaryDirectory(prefix="touchstream-") as folder:
        return subprocess.run(
            [sys.executable, "-m", "stream", *arguments],
            cwd=folder,
            env=environment(settings),
            input=given,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
