"""What README.md says of the code is true: names, defaults, links, metrics."""

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream.config import SETTING_NAMES, Settings
from stream.metrics import Metrics
from tests.architecture.project import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "stream/engine/README.md",
    *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))),
]


def section(title: str) -> str:
    found = re.search(rf"(?ms)^## {re.escape(title)}\n(.*?)(?=^## |\Z)", README)
    assert found is not None, f"README.md has no section {title}"
    return found[1]


def rows(title: str) -> Iterator[list[str]]:
    """Cells of the table of a section, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    for line in lines[2:]:
        yield [cell.strip() for cell in line.strip("|").split("|")]


def resolve(name: str) -> object:
    """A module, or what it holds. Raises AttributeError if there is no such thing."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            found = getattr(found, part)
        return found
    raise AttributeError(name)


def test_each_word_of_the_glossary_stands_in_the_code() -> None:
    names = [name for _, _, code in rows("Glossary") for name in re.findall("`([^`]+)`", code)]
    assert len(names) > 20
    for name in names:
        resolve(name)


def test_no_word_of_the_glossary_has_two_lines() -> None:
    words = [word.strip() for cells in rows("Glossary") for word in cells[0].split(",")]
    assert sorted(words) == sorted(set(words))


def test_the_settings_are_those_of_the_code_with_their_defaults() -> None:
    by_name = {cells[0].strip("`"): cells[1].strip("`") for cells in rows("Settings")}
    assert set(by_name) == set(SETTING_NAMES)
    plain = {name: text for name, text in by_name.items() if text and name != "TOUCHSTREAM_KAFKA_SSL_CAFILE"}
    told_otherwise = {"TOUCHSTREAM_MEMCACHED": "none", "TOUCHSTREAM_PARTITIONS": "topics.yaml's: 8"}
    assert told_otherwise.items() <= plain.items()
    given = {name: text for name, text in plain.items() if name not in told_otherwise}
    assert repr(Settings.from_env(given)) == repr(Settings())


def test_the_metrics_are_those_of_the_code() -> None:
    told = {name for cells in rows("Health and metrics") for name in re.findall("`([a-z_]+)`", cells[0])}
    families = list(Metrics().registry.collect())
    counted = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    assert {f"touchstream_{name}" for name in told} == counted


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_that_are_there(page: str) -> None:
    path = ROOT / page
    links = re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8"))
    missing = [link for link in links if not (path.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_files_named_in_backticks_are_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    names = re.findall(r"`((?:stream|tables|tests|dev|bench|docs)/[\w./-]+\.(?:py|md|yaml|json|xml))`", text)
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = sorted(int(path.name[:4]) for path in Path(ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    assert numbers == list(range(1, len(numbers) + 1))


def test_the_private_parts_of_the_engine_are_touched_where_its_readme_says() -> None:
    text = (ROOT / "stream" / "engine" / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"(?m)^\| `(\w+\.py)` \| (.*) \|$", text)
    assert len(lines) > 5
    for file, parts in lines:
        source = (ROOT / "stream" / "engine" / file).read_text(encoding="utf-8")
        for part in re.findall("`([^`]+)`", parts):
            assert re.search(rf"\b{re.escape(part.split('.')[-1])}\b", source), f"{file}: {part}"
