"""What one fire writes, and what it leaves alone."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from stream.agents.hour_reading import Mark
from stream.core.configuration import ModelRow
from stream.core.errors import Fenced, Unavailable
from stream.core.facts import Journey, Outcome, Touch
from stream.core.hours import HourKey
from stream.core.money import Units
from stream.core.toggles import Toggle, ToggleScope
from stream.core.totals import Scope, ScopeKey
from tests.agents.hour_desk import LATENESS, Desk
from tests.agents.test_firing import check_whole
from tests.support.hour_books import disagreement, stored
from tests.support.hour_examples import BASE, HOUR, journey, model_row, model_rows, uncounted

FIRST, SECOND, THIRD = (HourKey(1, BASE + number * HOUR) for number in range(3))
HOT = 20_000


async def desk_with(count: int = 6, *, bound: int = 1000) -> Desk:
    """Conversions in turn in three hours of account 1, under every model; all of it fired and published."""
    desk = Desk(bound=bound)
    desk.database.models[1] = model_rows(1)
    chance = random.Random(7)
    for conv_id in range(1, count + 1):
        desk.save(journey(chance, conv_id, 1, conv_time=BASE + conv_id % 3 * HOUR + conv_id))
    await desk.start()
    await desk.work(*desk.journeys)
    return desk


def revisions(desk: Desk) -> dict[HourKey, int]:
    return {key: hour.row.revision for key, hour in desk.database.hours.items()}


def paid(found: Journey, payout: int) -> Journey:
    return found._replace(conversion=found.conversion._replace(click_payout=Units(payout)), version=found.version + 1)


def moved(found: Journey, conv_time: int) -> Journey:
    return found._replace(conversion=found.conversion._replace(conv_time=conv_time), version=found.version + 1)


def with_late_click(found: Journey) -> Journey:
    late = Touch(found.conversion.conv_time - 5, 999_999, 1, 1, 1, 1)
    return found._replace(touches=tuple(sorted([*found.touches, late])), version=found.version + 1)


async def test_the_first_fire_gives_every_hour_its_first_revision() -> None:
    desk = await desk_with()
    assert revisions(desk) == {FIRST: 1, SECOND: 1, THIRD: 1}
    check_whole(desk)


@pytest.mark.parametrize(
    ("change", "affected"),
    [
        (lambda each: uncounted(each, Outcome.DELETED), {SECOND}),
        (lambda each: uncounted(each, Outcome.DUPLICATE), {SECOND}),
        (lambda each: paid(each, 777_777), {SECOND}),
        (lambda each: paid(each, -1), {SECOND}),
        (with_late_click, {SECOND}),
        (lambda each: moved(each, BASE + 2 * HOUR + 9), {SECOND, THIRD}),
        (lambda each: moved(each, BASE + 9), {FIRST, SECOND}),
        (lambda each: moved(each, BASE + HOUR + 9), {SECOND}),
    ],
    ids=["refund", "duplicate", "payout", "negative", "late_click", "later_hour", "earlier_hour", "same_hour"],
)
@pytest.mark.parametrize("bound", [0, 1000], ids=["read_again", "in_memory"])
async def test_exactly_the_affected_hours_get_a_revision(
    change: Callable[[Journey], Journey], affected: set[HourKey], bound: int
) -> None:
    desk = await desk_with(bound=bound)
    before = revisions(desk)
    original = desk.journeys[4]
    desk.save(change(original))
    await desk.work(4)
    assert {key for key, revision in revisions(desk).items() if revision != before[key]} == affected
    check_whole(desk)
    desk.save(original._replace(version=desk.journeys[4].version + 1))
    await desk.work(4)
    assert {key: revisions(desk)[key] - before[key] for key in before} == {
        key: 2 if key in affected else 0 for key in before
    }
    check_whole(desk)


async def test_a_mark_again_of_what_is_credited_already_writes_nothing() -> None:
    desk = await desk_with()
    desk.database.written.clear()
    found = await desk.work(1, 2, 3, 4, 4)
    assert (list(found.outputs), desk.database.written) == ([], [])


async def test_a_fire_of_a_hot_hour_writes_what_changed() -> None:
    desk = Desk(bound=10 * HOT)
    desk.database.models[1] = model_rows(1)[:3]
    chance = random.Random(5)
    for conv_id in range(1, HOT + 1):
        found = journey(chance, conv_id, 1, conv_time=BASE + chance.randrange(HOUR), most_touches=3)
        desk.save(paid(found, chance.randrange(100_000)))
    await desk.start()
    desk.database.after_commit = lambda: None  # too many rows to look at after each commit
    await desk.work(*desk.journeys)
    desk.database.written.clear()
    changed = range(100, 110)
    for conv_id in changed:
        desk.save(paid(desk.journeys[conv_id], 31_415))
    sent = await desk.work(*changed)
    ((change,),) = desk.database.written
    assert change.cleared is not None
    assert {*change.cleared} == {*changed}
    assert {credit.conv_id for credit in change.credits} == {*changed} == change.credited.keys()
    assert len(change.credits) <= 10 * (1 + 1 + 26)
    assert (change.removed_snapshots, list(change.uncredited)) == ([], [])
    assert len(change.snapshots) <= 3 * 20  # every scope that there is, of three models
    assert len(sent.outputs) == len(change.credits) + len(change.snapshots)
    assert disagreement(desk.wanted(), stored(desk.database)) == ""


async def test_hours_in_memory_are_bounded_and_the_result_is_not() -> None:
    for bound in (0, 1, 3, 1000):
        desk = await desk_with(30, bound=bound)
        desk.save(paid(desk.journeys[7], 5))
        desk.save(moved(desk.journeys[8], BASE))
        await desk.work(7, 8)
        assert desk.handler._at_work.conversions <= max(bound, 11)
        check_whole(desk)


# What a mark may say


async def test_a_mark_of_another_account_beside_the_true_one_takes_nothing_away() -> None:
    desk = await desk_with()
    desk.save(paid(desk.journeys[4], 5))
    await desk.finish(await desk.store(desk.chunk([Mark(1, 4), Mark(2, 4)])))
    check_whole(desk)


async def test_a_mark_of_another_account_hides_no_move() -> None:
    desk = await desk_with()
    desk.save(moved(desk.journeys[4], BASE + 9))  # its own mark is still to come
    desk.save(paid(desk.journeys[3], 5))  # and this one has its hour looked at
    await desk.finish(await desk.store(desk.chunk([Mark(2, 4), Mark(1, 3)])))
    await desk.rebuild([FIRST])
    desk.audit()
    await desk.work(4)
    await desk.settle()
    check_whole(desk)


async def test_a_mark_of_what_nobody_knows_is_passed_over() -> None:
    desk = await desk_with()
    before = revisions(desk)
    await desk.finish(await desk.store(desk.chunk([Mark(1, 4_000_000), Mark(3, 1), None])))
    assert revisions(desk) == before


# Models and settings


async def test_an_hour_that_never_counted_anything_follows_the_models_of_today() -> None:
    desk = Desk()
    desk.database.models[1] = [model_row(1, "linear")]
    found = journey(random.Random(3), 1, 1, conv_time=BASE)
    desk.save(uncounted(found, Outcome.DELETED))
    await desk.start()
    await desk.work(1)
    assert revisions(desk) == {}
    desk.database.models[1] = [model_row(1, "first_touch")]
    desk.save(found._replace(version=3))
    await desk.work(1)
    assert desk.database.hours[FIRST].row.configuration == desk.database.configuration(1).revision
    check_whole(desk)


async def test_an_account_without_models_gets_last_touch() -> None:
    desk = Desk()
    desk.save(journey(random.Random(3), 1, 1, conv_time=BASE))
    await desk.start()
    await desk.work(1)
    assert [row.type_name for row in desk.database.models[1]] == ["last_touch"]
    check_whole(desk)


async def test_without_an_active_model_nothing_is_attributed_and_what_stood_goes() -> None:
    desk = await desk_with()
    desk.database.models[1] = [row._replace(is_active=False) for row in desk.database.models[1]]
    await desk.settle()
    assert stored(desk.database).snapshots == []
    check_whole(desk)


async def test_a_broken_model_stops_itself_alone_and_comes_back_when_mended() -> None:
    desk = await desk_with()
    whole = desk.database.models[1]
    desk.database.models[1] = [ModelRow(whole[0].model_id, "time_decay", "{", is_active=True), *whole[1:]]
    await desk.settle()
    assert all(hour.row.problems.keys() == {whole[0].model_id} for hour in desk.database.hours.values())
    check_whole(desk)
    desk.database.models[1] = whole
    await desk.settle()
    assert not any(hour.row.problems for hour in desk.database.hours.values())
    check_whole(desk)


async def test_multi_touch_switched_off_counts_from_its_time_on() -> None:
    desk = await desk_with(30)
    desk.database.toggles[1].append(Toggle(ToggleScope.GLOBAL, 0, BASE + HOUR + 10, is_enabled=False))
    await desk.settle()
    check_whole(desk)


@pytest.mark.parametrize("bound", [0, 1000], ids=["read_again", "in_memory"])
async def test_a_total_too_great_takes_its_model_out_of_that_hour_until_it_fits(bound: int) -> None:
    desk = await desk_with(bound=bound)
    rows = range(1000, 1101)
    for conv_id in rows:
        found = journey(random.Random(conv_id), conv_id, 1, conv_time=BASE, most_touches=2)
        desk.save(paid(found, 99_999_999_999))
    await desk.work(*rows)
    assert desk.database.hours[FIRST].row.problems.keys() == {row.model_id for row in model_rows(1)}
    check_whole(desk)
    for conv_id in rows:
        desk.save(paid(desk.journeys[conv_id], 1))
    await desk.work(*rows)
    assert desk.database.hours[FIRST].row.problems == {}
    check_whole(desk)


# Final


async def test_an_hour_becomes_final_once_and_a_late_change_restates_it() -> None:
    desk = await desk_with()
    desk.watermark = BASE + HOUR + LATENESS - 1
    await desk.settle()
    assert not desk.database.hours[FIRST].row.is_final
    desk.watermark += 1
    await desk.work(is_last=False)  # records of ours may still wait
    assert not desk.database.hours[FIRST].row.is_final
    await desk.settle()
    assert [desk.database.hours[key].row.is_final for key in (FIRST, SECOND, THIRD)] == [True, False, False]
    assert [desk.database.hours[key].is_settled for key in (FIRST, SECOND, THIRD)] == [True, False, False]
    assert revisions(desk) == {FIRST: 2, SECOND: 1, THIRD: 1}
    told = [value for key, value in desk.books.records["attribution-snapshots"].items() if str(BASE).encode() in key]
    assert told
    assert all(b'"final":true' in value and b'"revision":2' in value for value in told)
    desk.save(paid(desk.journeys[3], 5))
    await desk.work(3)
    assert revisions(desk)[FIRST] == 3
    assert desk.database.hours[FIRST].row.is_final
    check_whole(desk)


async def test_a_final_hour_keeps_its_models_until_something_in_it_changes() -> None:
    desk = await desk_with()
    desk.watermark = BASE + HOUR + LATENESS
    await desk.settle()
    settled = desk.database.hours[FIRST].row
    desk.database.models[1] = [*desk.database.models[1], model_row(199, "first_touch")]
    await desk.settle()
    await desk.work(3)
    assert desk.database.hours[FIRST].row == settled
    desk.database.hours[FIRST].row = settled._replace(published_revision=0)  # as a removal of a model leaves it
    desk.database.hours[FIRST].is_settled = False
    desk.books.records["attribution-snapshots"].clear()
    await desk.settle()
    assert desk.database.hours[FIRST].row == settled
    assert any(str(BASE).encode() in key for key in desk.books.records["attribution-snapshots"])
    desk.save(paid(desk.journeys[3], 5))
    await desk.work(3)
    assert (
        desk.database.hours[FIRST].row.configuration == desk.database.configuration(1).revision != settled.configuration
    )


# Faults


async def run_scenario(desk: Desk) -> None:
    """Conversions come, go, move and change, two chunks."""
    desk.save(paid(desk.journeys[1], 5))
    desk.save(moved(desk.journeys[2], BASE + 3))
    desk.save(uncounted(desk.journeys[3], Outcome.DELETED))
    await desk.work(1, 2, 3)
    desk.save(with_late_click(desk.journeys[4]))
    desk.save(moved(desk.journeys[5], BASE + 3 * HOUR))
    await desk.work(4, 5)
    await desk.settle()


async def test_a_transaction_rolled_back_at_any_step_leaves_no_trace() -> None:
    steps = 0

    async def count(_: str) -> None:
        nonlocal steps
        steps += 1

    desk = await desk_with()
    desk.database.before_step = count
    await run_scenario(desk)
    assert steps > 20
    for broken in range(1, steps + 1):
        desk = await desk_with()
        desk.database.before_step = failing_at(desk, broken)
        await run_scenario(desk)
        check_whole(desk)


def failing_at(desk: Desk, broken: int) -> Callable[[str], Awaitable[None]]:
    """One step fails, once. Sent records are noted again, as the barrier does it."""
    seen = 0

    async def fail(step: str) -> None:
        nonlocal seen
        if step in ("mark_published", "committed"):
            return
        seen += 1
        if seen == broken:
            raise Unavailable(f"no answer to {step}, says the test")

    return fail


async def test_a_worker_and_a_rebuild_at_the_same_hours_follow_one_another() -> None:
    async def give_way(_: str) -> None:
        await asyncio.sleep(0)

    desk = await desk_with(30)
    desk.database.before_step = give_way
    for round_number in range(10):
        for conv_id in (1, 2, 3):
            desk.save(moved(desk.journeys[conv_id], BASE + (conv_id + round_number) % 3 * HOUR))
        await asyncio.gather(
            desk.work(1, 2, 3), desk.rebuild([FIRST, SECOND, THIRD]), desk.rebuild([FIRST, SECOND, THIRD])
        )
    await desk.settle()
    check_whole(desk)


async def test_a_sleeper_marks_nothing_of_its_successor_as_published() -> None:
    desk = await desk_with()
    desk.save(paid(desk.journeys[3], 5))
    slept = await desk.store(desk.chunk([Mark(1, 3)]))
    sleeper = desk.handler
    await desk.start()
    with pytest.raises(Fenced):
        await sleeper.note_sent(slept)
    row = desk.database.hours[FIRST].row
    assert row.published_revision < row.revision
    await desk.settle()
    check_whole(desk)


async def test_what_was_committed_and_never_sent_is_sent_by_the_next_owner() -> None:
    desk = await desk_with()
    desk.save(uncounted(desk.journeys[2], Outcome.DELETED))
    await desk.store(desk.chunk([Mark(1, 2)]))  # and here the worker ends
    await desk.start()
    await desk.settle()
    check_whole(desk)


async def test_removed_and_come_back_before_anything_was_sent_is_no_removal() -> None:
    desk = await desk_with()
    original = desk.journeys[2]
    desk.save(uncounted(original, Outcome.DELETED))
    await desk.store(desk.chunk([Mark(1, 2)]))
    await desk.start()
    desk.save(original._replace(version=9))
    await desk.work(2)
    check_whole(desk)


async def test_rows_of_another_system_are_replaced_by_the_first_fire() -> None:
    desk = await desk_with()
    hour = desk.database.hours.pop(FIRST)  # as if ours had never been there
    for conv_id in [each for each, at in desk.database.credited.items() if at.hour == FIRST]:
        del desk.database.credited[conv_id]
    old = next(iter(hour.snapshots.values()))
    hour.snapshots = {key: row._replace(revenue=row.revenue + 1) for key, row in hour.snapshots.items()}
    foreign = ScopeKey(4711, Scope.GLOBAL, 0)
    hour.snapshots[foreign] = old._replace(key=foreign)
    hour.row = hour.row._replace(revision=0, published_revision=0, configuration=0)
    desk.database.hours[FIRST] = hour
    await desk.work(3)
    check_whole(desk)
