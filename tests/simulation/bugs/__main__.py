"""`python -m tests.simulation.bugs [NAME...]`: apply each patch to a copy of the project, and see the simulation fail.

A bug is caught where the first seed that fails does so by what its patch names, passes without the patch and, if the
bug needs a fault, passes without faults. Exit 1 if one is not caught within the seeds.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests.simulation.bugs.patches import PATCHES, Bug, all_bugs, applied

ROOT = Path(__file__).resolve().parents[3]
COPIED = ("stream", "tables", "tests", "bench", "dev", "pyproject.toml", "topics.yaml")
_SEED = re.compile(r"seed (\d+) failed: (.*)")


class _Outcome(NamedTuple):
    is_well: bool
    last: str


def main() -> int:
    options = _options()
    bugs = [Bug.of(PATCHES / f"{name}.patch") for name in options.names] or all_bugs()
    missed = [bug.name for bug in bugs if not _is_caught(bug, options)]
    if missed:
        _tell(f"bugs: {len(missed)} of {len(bugs)} were not caught: {', '.join(missed)}")
        return 1
    _tell(f"bugs: all {len(bugs)} caught within {options.seeds} seeds")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.bugs")
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--processes", type=int, default=2)
    return parser.parse_args()


def _is_caught(bug: Bug, options: argparse.Namespace) -> bool:
    with tempfile.TemporaryDirectory(prefix="touchstream-bug-") as folder:
        _copy(Path(folder))
        applied(bug.patch, Path(folder))
        started = time.monotonic()
        outcome = _simulated(Path(folder), "--seeds", str(options.seeds), "--processes", str(options.processes))
        seconds = time.monotonic() - started
        failed = _SEED.search(outcome.last)
        if outcome.is_well or failed is None:
            complaint = f"NOT caught: {outcome.last}"
        else:
            complaint = _complaint(bug, Path(folder), seed=failed[1], failure=failed[2])
    if complaint:
        _tell(f"{bug.name}: {complaint} ({seconds:.0f} s)")
        return False
    assert failed is not None
    _tell(f"{bug.name}: seed {failed[1]}, {seconds:.0f} s: {failed[2]:.160}")
    return True


def _complaint(bug: Bug, folder: Path, *, seed: str, failure: str) -> str:
    """'' where it is this bug that the seed has found."""
    one = ("--seeds", "1", "--from", seed)
    if not bug.is_found_by(failure):
        return f"seed {seed} fails by something else than {' or '.join(bug.findings)}: {failure:.160}"
    if not (without := _simulated(ROOT, *one)).is_well:
        return f"seed {seed} fails without the bug, too: {without.last:.160}"
    if bug.needs_fault and not (quiet := _simulated(folder, *one, "--faults", "none")).is_well:
        return f"seed {seed} fails without any fault, too: {quiet.last:.160}"
    return ""


def _simulated(folder: Path, *arguments: str) -> _Outcome:
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--no-shrinking", *arguments],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    return _Outcome(done.returncode == 0, (done.stdout.splitlines() or [done.stderr[-500:]])[-1])


def _copy(folder: Path) -> None:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "jars"))
        else:
            shutil.copy(source, folder)


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
