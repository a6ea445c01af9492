"""A journey that comes back after somebody deleted it: behind every version that its conversion may have had."""

from collections.abc import Mapping

import pytest

from stream.core.events import Conversion
from stream.core.fold import fold
from stream.core.folding import Place
from stream.core.keys import JourneyKey
from stream.core.state import KeyState
from tests.support.builders import click, conversion
from tests.support.memory_facts import MemoryFacts

REPORTED = conversion(1, conv_time=2000)


def _nothing(_: JourneyKey) -> KeyState | None:
    return None


def version_of(facts: MemoryFacts, reported: Conversion, first_versions: Mapping[int, int] | None = None) -> int:
    place = Place(0, 1, 1000, 0, first_versions=first_versions or {})
    folded = facts.run(fold(place, _nothing, [click(1, click_time=1500)], [reported]))
    facts.write(folded.journeys)
    return facts.journeys[reported.conv_id].version


@pytest.mark.parametrize(
    ("credited", "first_versions", "version"),
    [({}, {}, 1), ({2: 9}, {2: 9}, 1), ({1: 1}, {}, 2), ({}, {1: 4}, 4), ({1: 4}, {1: 3}, 5), ({1: 1}, {1: 4}, 4)],
)
def test_it_begins_behind_what_hours_and_its_partition_remember(
    credited: Mapping[int, int], first_versions: Mapping[int, int], version: int
) -> None:
    facts = MemoryFacts()
    facts.credited_versions = lambda: credited
    assert version_of(facts, REPORTED, first_versions) == version
    assert version_of(facts, REPORTED, first_versions) == version
    assert version_of(facts, REPORTED._replace(deleted=1, revised_at=1), first_versions) == version + 1


def test_what_stands_goes_on_from_its_own_version() -> None:
    facts = MemoryFacts()
    assert version_of(facts, REPORTED) == 1
    facts.credited_versions = lambda: {1: 7}
    assert version_of(facts, REPORTED._replace(deleted=1, revised_at=1), {1: 9}) == 2
