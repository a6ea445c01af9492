"""What of a source is compared at a look, what is sent then, and what has to wait or is given up."""

from collections.abc import AsyncIterator, Mapping, Sequence

import pytest

from stream.commands import import_following
from stream.commands.import_changes import (
    MOST_MARKS,
    Tried,
    Unsettled,
    can_replace,
    restated_click,
    restated_conversion,
)
from stream.commands.import_following import Changes
from stream.commands.import_order import in_order
from stream.commands.import_passes import DryWay, Passing
from stream.commands.import_place import Place, Range
from stream.commands.import_report import Telling
from stream.commands.import_source import IS_CLICK, Entry, SourceEvents, click_entry, conversion_entry
from stream.commands.standing import Group, PartitionStanding, Standing
from stream.commands.standing import Place as Offsets
from stream.core.errors import Unavailable
from stream.core.money import Units
from tables.sql.database import Database, open_database
from tables.sql.installed import InstalledTables
from tables.sql.installed_address import source_address
from tables.sql.upgrade import upgrade_schema
from tests.support.builders import click, conversion
from tests.support.prosper202 import installed

NOW = 1_800_000_000


def standing(*partitions: int | None, end: int) -> Standing:
    """What is committed of each partition of a topic; all end alike."""
    places: list[Mapping[str, Offsets]] = [{"clicks": Offsets(0, end, each, each)} for each in partitions]
    found = [PartitionStanding(number, each, "", None) for number, each in enumerate(places)]
    return Standing(Group("Stable", 1, {}), found, {}, {})


class Keeping(DryWay):
    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.is_away = False

    async def send(self, entries: Sequence[Entry]) -> None:
        if self.is_away:
            raise Unavailable("the broker went away")
        self.entries += entries


@pytest.fixture
async def facts(fresh_sqlite: str) -> AsyncIterator[Database]:
    await upgrade_schema(fresh_sqlite)
    opened = open_database(fresh_sqlite)
    yield opened
    await opened.close()


async def test_a_look_takes_the_newest_rows_and_the_next_page_of_all(
    mariadb_url: str, facts: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_following, "NEWEST_ROWS", 4)
    with installed(mariadb_url) as source:
        source.add_clicks(*({"click_id": number, "click_time": NOW - number} for number in range(1, 52)))
        source.add_conversions(*({"conv_id": number} for number in range(1, 52)))
        opened, way = InstalledTables(source_address(source.url)), Keeping()
        await opened.check()
        telling = Telling("source", is_silent=True, is_dry=False)
        events = SourceEvents(opened, telling.left_out)
        passing = Passing(installed=opened, events=events, way=way, telling=telling, wanted=Range(), batch_size=3)
        place = Place(newest_click=50, last_click=50, last_conversion=50, swept_click=10, swept_conversion=48)
        changes = Changes(passing, facts, Tried(), kept_since=lambda: NOW - 49)
        await changes.look(place)
        assert way.entries == [], "nobody knows what is under way"
        place.swept_click, place.swept_conversion = 10, 48
        changes.unsettled.look(standing(5, end=5))
        await changes.look(place)
        await opened.close()
    found = [(entry.kind, entry.event_id) for entry in way.entries]
    clicks = sorted(event_id for kind, event_id in found if kind == IS_CLICK)
    assert clicks == [11, 12, 13, 47, 48, 49], "and none that the retention has removed"
    assert sorted(event_id for kind, event_id in found if kind != IS_CLICK) == [47, 48, 49, 50]
    assert (place.swept_click, place.swept_conversion) == (13, 0), "at its end it begins anew"


async def test_what_the_broker_did_not_take_is_sent_once_it_is_back(
    mariadb_url: str, facts: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    with installed(mariadb_url) as source:
        source.add_clicks({"click_id": 1, "click_time": NOW})
        opened, way, tried = InstalledTables(source_address(source.url)), Keeping(), Tried()
        await opened.check()
        telling = Telling("source", is_silent=True, is_dry=False)
        events = SourceEvents(opened, telling.left_out)
        passing = Passing(installed=opened, events=events, way=way, telling=telling, wanted=Range(), batch_size=3)

        async def look() -> None:
            """After everything was connected anew."""
            changes = Changes(passing, facts, tried, kept_since=lambda: 0)
            changes.unsettled.look(standing(5, end=5))
            await changes.look(Place(newest_click=1, last_click=1))

        way.is_away = True
        with pytest.raises(Unavailable):
            await look()
        way.is_away = False
        await look()
        assert [entry.event_id for entry in way.entries] == [1]
        assert capsys.readouterr().err == ""
        await look()
        await look()
        await opened.close()
    assert len(way.entries) == 1, "it was sent, and nobody took it"
    assert capsys.readouterr().err.count("not sent again: row of 202_clicks with id 1 was sent") == 1


def test_a_changed_row_is_restated_with_a_later_revision_and_keeps_what_others_know() -> None:
    stored = click(1, visitor_id="ann", click_cpc=Units(5), revised_at=7)
    row = click(1, click_cpc=Units(6))
    assert restated_click(row, None, NOW) == row
    assert restated_click(row._replace(click_cpc=Units(5)), stored, NOW) is None
    assert restated_click(row, stored, NOW) == stored._replace(click_cpc=Units(6), revised_at=NOW)
    ahead = restated_click(row, stored._replace(revised_at=NOW + 5), NOW)
    assert ahead is not None
    assert ahead.revised_at == NOW + 6, "a clock that is behind changes nothing"
    known = conversion(1, visitor_id="ann", click_cpc=Units(3), revised_at=7)
    assert restated_conversion(conversion(1), known, NOW) is None
    assert restated_conversion(conversion(1, deleted=1), known, NOW) == known._replace(deleted=1, revised_at=NOW)


def test_what_a_worker_would_refuse_is_not_sent() -> None:
    assert can_replace(click(1, campaign_id=5), None)
    assert can_replace(click(1, campaign_id=5), click(1, campaign_id=0, revised_at=9))
    assert not can_replace(click(1, campaign_id=0, revised_at=9), click(1, campaign_id=5))
    assert not can_replace(click(1, user_id=2, revised_at=9), click(1))
    assert not can_replace(conversion(1, click_id=2, revised_at=9), conversion(1))
    assert can_replace(conversion(1, deleted=1, revised_at=9), conversion(1))


def test_rows_wait_until_the_workers_have_passed_what_was_sent_of_them() -> None:
    unsettled = Unsettled()
    assert unsettled.holds((0, 1)), "nobody knows what was sent before"
    unsettled.look(standing(3, end=10))
    assert unsettled.holds_everything
    unsettled.add([click_entry(click(1))])
    unsettled.look(standing(10, end=11))
    assert (unsettled.holds((0, 1)), unsettled.holds((0, 2))) == (True, False)
    unsettled.add([conversion_entry(conversion(1))])
    assert unsettled.holds((1, 1))
    unsettled.look(standing(11, end=12))
    assert (unsettled.holds((0, 1)), unsettled.holds((1, 1))) == (False, True)
    unsettled.look(standing(12, end=12))
    assert not unsettled.is_pending
    unsettled.look(standing(None, end=0))
    assert not unsettled.is_pending, "an empty topic is passed by whoever is not there"


def test_what_is_on_its_way_stays_cheap_to_look_for_however_long_no_worker_runs() -> None:
    unsettled = Unsettled()
    unsettled.look(standing(0, end=0))
    polls = 20 * MOST_MARKS
    for number in range(1, polls + 1):
        unsettled.add([click_entry(click(number))])
        unsettled.look(standing(0, end=number))
    assert len(unsettled._marks) <= MOST_MARKS
    assert all(unsettled.holds((0, number)) for number in range(1, polls + 1))
    assert not unsettled.holds((0, polls + 1))
    unsettled.look(standing(5, end=polls))
    assert [unsettled.holds((0, number)) for number in (5, 6, polls)] == [False, True, True]
    unsettled.look(standing(polls, end=polls))
    assert not unsettled.is_pending


def test_every_partition_must_have_passed_what_was_sent() -> None:
    unsettled = Unsettled()
    unsettled.look(standing(4, 3, end=4))
    assert unsettled.holds_everything, "one of them may have taken it, the other has not"
    unsettled.look(standing(4, 4, end=4))
    assert not unsettled.is_pending


def test_what_was_tried_is_counted_by_its_content_until_it_takes_effect() -> None:
    tried = Tried()
    first, other = click_entry(click(1)), click_entry(click(1, click_cpc=Units(9)))
    tried.count(first)
    tried.count(first)
    assert (tried.attempts(first), tried.attempts(other)) == (2, 0)
    tried.count(other)
    assert (tried.attempts(first), tried.attempts(other)) == (0, 1)
    tried.forget(other)
    assert tried.attempts(other) == 0


async def test_nothing_to_read_is_no_entries() -> None:
    assert [entries async for entries in in_order([])] == []
