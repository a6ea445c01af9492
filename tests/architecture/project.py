"""What the tests of the architecture look at: the tracked files, and their syntax trees."""

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CODE = ("stream", "tables", "dev", "bench", "tests")


@cache
def tracked_files() -> tuple[Path, ...]:
    """Files of the project: those that git knows or would take."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    paths = (ROOT / name for name in sorted(set(done.stdout.split("\0")) - {""}))
    return tuple(path for path in paths if path.is_file())


def python_files(*folders: str) -> Iterator[Path]:
    for path in tracked_files():
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in (folders or CODE):
            yield path


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def where(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"
