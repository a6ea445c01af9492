"""Hours whose rows other hands wrote or took away, hours that turn final, and hours that are long in computing."""

import json
import random
from collections.abc import Callable

import pytest

from stream.agents import hour_computing
from stream.agents.firing import HoursAtWork
from stream.core.configuration import configuration_of
from stream.core.facts import Journey, Outcome
from stream.core.hours import Hour, HourKey
from stream.core.money import Units
from stream.core.results import CreditedAt
from stream.core.totals import Scope, ScopeKey, earner_of
from tests.agents.hour_desk import LATENESS, Desk
from tests.agents.test_firing import check_whole
from tests.support.hour_books import SNAPSHOTS, stored
from tests.support.hour_examples import BASE, HOUR, journey, model_row, uncounted
from tests.support.memory_hours import put_foreign

KEY, NEXT = HourKey(1, BASE), HourKey(1, BASE + HOUR)
GLOBAL = ScopeKey(101, Scope.GLOBAL, 0)


def conversion(conv_id: int, conv_time: int = BASE) -> Journey:
    return journey(random.Random(conv_id), conv_id, 1, conv_time=conv_time + 10 + conv_id)


async def desk_with(*conv_ids: int, fires: bool = True) -> Desk:
    """Conversions of one hour under two models; fired and published, or nothing yet."""
    desk = Desk()
    desk.database.models[1] = [model_row(101, "last_touch"), model_row(102, "linear")]
    for conv_id in conv_ids:
        desk.save(conversion(conv_id))
    await desk.start()
    if fires:
        await desk.work(*conv_ids)
    return desk


# Other hands


async def test_totals_of_the_system_before_are_published_also_where_they_are_equal() -> None:
    wanted = await desk_with(1, 2)
    equal = wanted.database.hours[KEY]
    desk = await desk_with(1, 2, fires=False)
    put_foreign(desk.database, KEY, equal.snapshots.values(), equal.credits.values())
    await desk.work(1, 2)
    ((change,),) = desk.database.written
    assert {row.key for row in change.snapshots} == equal.snapshots.keys()
    check_whole(desk)


async def test_credits_of_the_system_before_go_with_the_conversion_that_was_deleted() -> None:
    before = await desk_with(1)
    rows = before.database.hours[KEY]
    desk = await desk_with(fires=False)
    desk.save(uncounted(conversion(1), Outcome.DELETED))
    put_foreign(desk.database, KEY, rows.snapshots.values(), rows.credits.values())
    await desk.work(1)
    assert stored(desk.database).credits == []
    check_whole(desk)


async def test_a_model_whose_rows_were_taken_away_gets_those_of_all_conversions_again() -> None:
    desk = await desk_with(1, 2)
    hour = desk.database.hours[KEY]
    hour.snapshots = {key: row for key, row in hour.snapshots.items() if key.model_id != GLOBAL.model_id}
    hour.credits = {place: row for place, row in hour.credits.items() if place[0] != GLOBAL.model_id}
    await desk.start()  # what is in memory knows nothing of it
    desk.save(conversion(3))
    await desk.work(3)
    assert {row.conv_id for row in desk.database.hours[KEY].credits.values() if row.model_id == 101} == {1, 2, 3}
    check_whole(desk)


# Final


def pass_end(desk: Desk) -> None:
    desk.watermark = BASE + HOUR + LATENESS


@pytest.mark.parametrize(
    "change",
    [
        lambda: conversion(3),
        lambda: uncounted(conversion(2), Outcome.DELETED),
        lambda: conversion(2, BASE + HOUR)._replace(version=2),
        lambda: conversion(2)._replace(click_cpc=Units(777), version=2),
    ],
    ids=["new", "deleted", "moved_away", "changed"],
)
async def test_an_hour_is_final_only_with_all_that_sql_has_of_it(change: Callable[[], Journey]) -> None:
    """The journeys agent has committed a conversion and the watermark; its mark is still on its way."""
    desk = await desk_with(1, 2)
    found = desk.save(change())
    pass_end(desk)
    sent = await desk.work()
    row = desk.database.hours[KEY].row
    assert (row.is_final, row.revision) == (True, 2)
    check_whole(desk)
    values = [json.loads(each.value) for each in sent.outputs if each.topic == SNAPSHOTS and each.value]
    told = {value["attributed_conversions"] for value in values if value["final"] and value["scope_type"] == "global"}
    here = [each for each in desk.journeys.values() if each.outcome is Outcome.COUNTED and each.date_hour == BASE]
    assert told == {len(here)}
    await desk.work(found.conversion.conv_id)
    assert desk.database.hours[KEY].row == row._replace(published_revision=2)


async def test_a_conversion_that_moved_between_two_hours_that_turn_final_stands_in_one() -> None:
    desk = await desk_with(1, 2)
    desk.save(conversion(5, BASE + HOUR))
    await desk.work(5)
    desk.save(conversion(2, BASE + HOUR)._replace(version=2))
    desk.watermark = BASE + 2 * HOUR + LATENESS
    await desk.work()
    assert [desk.database.hours[key].row.is_final for key in (KEY, NEXT)] == [True, True]
    assert desk.database.credited[2] == CreditedAt(NEXT, 2)
    check_whole(desk)


async def test_what_sql_has_is_asked_for_once_and_only_when_an_hour_turns_final() -> None:
    desk = await desk_with(1, 2)
    steps: list[str] = []

    async def note(step: str) -> None:
        steps.append(step)

    desk.database.before_step = note
    desk.save(conversion(3))
    await desk.work(3)
    assert "read_uncredited" not in steps
    pass_end(desk)
    await desk.settle()
    await desk.settle()
    assert steps.count("read_uncredited") == 1


# Long ones


async def test_many_hours_whose_models_changed_are_restated_in_rounds_that_follow_at_once() -> None:
    desk = Desk()
    desk.database.models[1] = [model_row(101, "last_touch")]
    for conv_id in range(1, 46):
        desk.save(conversion(conv_id, BASE + conv_id * HOUR))
    await desk.start()
    await desk.work(*range(1, 46))
    desk.database.models[1] = [model_row(101, "linear")]
    desk.handler._clock = lambda: 1_000  # not a second goes by between them
    rounds = [await desk.work() for _ in range(3)]
    assert [len(each.receipt.publications) for each in rounds] == [20, 20, 5]
    assert [each.is_unfinished for each in rounds] == [True, True, False]
    check_whole(desk)


@pytest.mark.parametrize("hours", [1, 20], ids=["one_hour", "many_hours"])
async def test_a_fire_that_is_long_in_computing_is_not_silent(monkeypatch: pytest.MonkeyPatch, hours: int) -> None:
    monkeypatch.setattr(hour_computing, "_STEPS_AT_A_TIME", 10)
    desk = Desk()
    desk.database.models[1] = [model_row(101, "linear")]
    steps: list[str] = []
    for conv_id in range(1, 101):
        desk.save(conversion(conv_id, BASE + conv_id % hours * HOUR))
    await desk.start()

    async def note(step: str) -> None:
        steps.append(step)

    desk.database.before_step = note
    await desk.work(*desk.journeys)
    computing = steps[steps.index("read_contents") : steps.index("write")]
    assert computing.count("keep_alive") >= 2 * 100 // 10
    check_whole(desk)


def hour_of(count: int) -> Hour:
    hour = Hour(configuration_of([], [], scopes="all"), with_extra_scopes=True)
    for conv_id in range(1, count + 1):
        earner = earner_of(conversion(conv_id), is_multi_touch_on=True)
        assert earner is not None
        hour.put(earner)
    return hour


def test_hours_that_are_kept_again_are_counted_once() -> None:
    at_work = HoursAtWork(100)
    at_work.keep({KEY: hour_of(3)})
    at_work.keep({KEY: hour_of(4), NEXT: hour_of(1)})
    assert at_work.conversions == 5
    at_work.take(KEY, 0)
    at_work.take(NEXT, 0)
    assert at_work.conversions == 0
