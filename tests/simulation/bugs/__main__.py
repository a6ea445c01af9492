"""`python -m tests.simulation.bugs [NAME...]`: apply each patch to a copy of the project, and see the simulation fail.

Exit 1 if a bug was not caught within the seeds.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PATCHES = Path(__file__).parent
COPIED = ("stream", "tables", "tests", "bench", "dev", "pyproject.toml", "topics.yaml")
_SEED = re.compile(r"seed (\d+) failed: (.*)")


def main() -> int:
    options = _options()
    chosen = [PATCHES / f"{name}.patch" for name in options.names] or sorted(PATCHES.glob("*.patch"))
    missed = [patch.stem for patch in chosen if not _is_caught(patch, options)]
    if missed:
        _tell(f"bugs: {len(missed)} of {len(chosen)} were not caught: {', '.join(missed)}")
        return 1
    _tell(f"bugs: all {len(chosen)} caught within {options.seeds} seeds")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.bugs")
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--processes", type=int, default=2)
    return parser.parse_args()


def _is_caught(patch: Path, options: argparse.Namespace) -> bool:
    with tempfile.TemporaryDirectory(prefix="touchstream-bug-") as folder:
        _copy(Path(folder))
        _apply(patch, Path(folder))
        started = time.monotonic()
        command = [sys.executable, "-m", "tests.simulation", "--no-shrinking"]
        done = subprocess.run(
            [*command, "--seeds", str(options.seeds), "--processes", str(options.processes)],
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "PYTHONPATH": folder},
            capture_output=True,
            text=True,
            check=False,
        )
    seconds = time.monotonic() - started
    last = (done.stdout.splitlines() or [""])[-1]
    failed = _SEED.search(last)
    if done.returncode != 1 or failed is None:
        _tell(f"{patch.stem}: NOT caught ({seconds:.0f} s): {last or done.stderr[-500:]}")
        return False
    _tell(f"{patch.stem}: seed {failed[1]}, {seconds:.0f} s: {failed[2]:.160}")
    return True


def _copy(folder: Path) -> None:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", "jars"))
        else:
            shutil.copy(source, folder)


def _apply(patch: Path, folder: Path) -> None:
    """The text before the first file of a patch is passed over."""
    done = subprocess.run(
        ["git", "apply", str(patch)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{patch.name} no longer fits: {done.stdout}{done.stderr}")


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
