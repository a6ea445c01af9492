"""Names that would hide our packages, and sizes that a reader can take in."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.architecture.project import ROOT, python_files, tree_of, where

# `stream` and `tables` are packages; a variable of that name would hide one of them.
FORBIDDEN = {"stream", "streams", "table", "tables"}
DRAWERS = {"utils", "helpers", "common", "base", "misc", "manager"}
MODULE_LINES = 400
TEST_LINES = 500
FUNCTION_LINES = 40
POSITIONAL = 4


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def bound_names(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name) | ast.ExceptHandler(name=str(name)):
            yield name
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.alias(asname=str(name)):
            yield name
        case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            yield name


def test_nothing_is_called_like_our_packages() -> None:
    found = [
        f"{where(path, node)} {name}"
        for path in python_files()
        for node in ast.walk(tree_of(path))
        for name in bound_names(node)
        if name in FORBIDDEN
    ]
    assert found == []


def test_the_walk_finds_each_way_to_bind_a_name() -> None:
    source = """
def stream(tables): ...
for table in []: ...
import a as streams
try: ...
except E as tables: ...
match x:
    case [*stream]: ...
    case table: ...
"""
    names = [name for node in ast.walk(ast.parse(source)) for name in bound_names(node)]
    assert sorted(names) == ["stream", "stream", "streams", "table", "table", "tables", "tables"]


def test_no_module_is_a_drawer_or_hides_a_package() -> None:
    inner = [path for path in python_files() if path.parent != ROOT]
    assert [path for path in inner if path.stem in DRAWERS | FORBIDDEN] == []


def test_modules_and_functions_stay_small() -> None:
    too_long = []
    for path in python_files():
        limit = TEST_LINES if path.relative_to(ROOT).parts[0] == "tests" else MODULE_LINES
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > limit:
            too_long.append(f"{path.relative_to(ROOT)} has {lines} lines")
    for path in python_files("stream", "tables"):
        for node in functions(tree_of(path)):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            if lines > FUNCTION_LINES:
                too_long.append(f"{where(path, node)} {node.name} has {lines} lines")
            arguments = [each.arg for each in node.args.posonlyargs + node.args.args if each.arg not in {"self", "cls"}]
            if len(arguments) > POSITIONAL and "commands" not in path.parts:
                too_long.append(f"{where(path, node)} {node.name} has {len(arguments)} positional parameters")
    assert too_long == []


def test_core_uses_nothing_but_pure_standard_library() -> None:
    forbidden = {
        "asyncio",
        "datetime",
        "logging",
        "os",
        "pathlib",
        "random",
        "socket",
        "subprocess",
        "threading",
        "time",
    }
    found = []
    for path in python_files("stream"):
        if path.parent != ROOT / "stream" / "core":
            continue
        for node in ast.walk(tree_of(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                root = name.partition(".")[0]
                is_ours = name == "stream.core" or name.startswith("stream.core.")
                if not is_ours and (root in forbidden or root not in sys.stdlib_module_names):
                    found.append(f"{where(path, node)} {name}")
    assert found == []


@pytest.mark.parametrize("folder", ["stream", "tables"])
def test_every_module_says_what_it_is(folder: str) -> None:
    def is_silent(path: Path) -> bool:
        return ast.get_docstring(tree_of(path)) is None

    # Migrations are generated names with a docstring of their own tool; they too have one.
    assert [path for path in python_files(folder) if is_silent(path)] == []
