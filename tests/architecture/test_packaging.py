"""One distribution with two packages of plain names: whose they are, and what gets installed."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import stream
import tables
from tests.architecture.project import ROOT, tracked_files

LOCKS = ["requirements.lock", "requirements-dev.lock"]


@pytest.mark.parametrize("name", ["stream", "tables"])
def test_our_packages_belong_to_our_distribution_alone(name: str) -> None:
    assert set(importlib.metadata.packages_distributions()[name]) == {"touchstream"}


def test_both_packages_are_loaded_from_the_checkout() -> None:
    found = [Path(str(package.__file__)).resolve().parent for package in (stream, tables)]
    assert found == [ROOT / "stream", ROOT / "tables"]
    assert tables.OWNER == "touchstream"


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_pin_and_hash_everything_and_hold_no_address(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert not re.search(r"://|--(extra-)?index-url|--find-links|--trusted-host|@ |file:/|^/", text, re.MULTILINE)
    entries = re.split(r"\n(?=[a-zA-Z])", re.sub(r"(?m)^#.*\n?", "", text).strip())
    assert len(entries) > 20
    for entry in entries:
        assert re.match(r"[a-z0-9._-]+==\S+( ; [^\\\n]+)? \\\n", entry), entry[:80]
        assert "--hash=sha256:" in entry, entry[:80]


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_hold_neither_pytables_nor_the_old_stream_package(lock: str) -> None:
    names = re.findall(r"(?m)^([a-z0-9._-]+)==", (ROOT / lock).read_text(encoding="utf-8"))
    assert not {"tables", "stream"} & set(names)


def test_the_locks_agree_and_hold_every_declared_dependency() -> None:
    pins = [
        dict(re.findall(r"(?m)^([a-z0-9._-]+)==(\S+)", (ROOT / lock).read_text(encoding="utf-8"))) for lock in LOCKS
    ]
    assert {name: pins[1].get(name) for name in pins[0]} == pins[0]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split(r"[\[<>=~]", text)[0].lower() for text in project["dependencies"]}
    assert declared <= set(pins[0])


def test_a_wheel_holds_schemas_migrations_and_the_topics(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
    ]
    copy = tmp_path / "copy"
    for path in tracked_files():
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    subprocess.run([*command, str(copy)], check=True, capture_output=True, timeout=120)
    wheel = zipfile.ZipFile(next(tmp_path.glob("touchstream-*.whl")))
    names = set(wheel.namelist())
    data = [path.relative_to(ROOT).as_posix() for path in tracked_files() if path.suffix in {".json", ".ini", ".mako"}]
    ours = {name for name in data if name.startswith(("stream/", "tables/"))}
    code = {path.relative_to(ROOT).as_posix() for path in tracked_files() if path.suffix == ".py"}
    assert ours | {name for name in code if name.startswith(("stream/", "tables/"))} <= names
    assert wheel.read("stream/topics.yaml") == (ROOT / "topics.yaml").read_bytes()
    assert not [name for name in names if name.startswith(("tests/", "dev/", "bench/"))]
