"""A replay that goes on with one that was broken off: from where, and what does it send again?"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from stream.commands import replay_work
from stream.commands.replay_plan import Plan, Wish
from stream.core.errors import Unavailable
from stream.replay.computing import BatchReport, compute_batch
from tables.sql.replays import SqlReplayTransaction
from tests.commands.replay_desk import Broken, Desk, events


def test_a_run_that_an_older_release_broke_off_is_known_by_its_arguments() -> None:
    wish = Wish(users=(7,), start=5, end=9)
    of_older: dict[str, object] = {
        "partitions": 0,
        "topic_ids": {},
        "users": [7],
        "start": 5,
        "end": 9,
        "allow_incomplete": False,
    }
    assert wish.arguments(Plan([], {}, {})) == of_older
    assert Wish(users=(), start=0, end=0).of(of_older) == wish


async def test_a_replay_that_is_killed_twice_still_sends_what_the_first_kill_left(desk: Desk) -> None:
    """The second time its chunks are smaller, and it comes less far."""
    desk.log.append(*events(1, 20))
    await desk.broken_off(at=1, is_facts=True)
    assert len(await desk.touches()) == 20, "stored, and not sent"
    desk.log.size = 10
    await desk.broken_off(at=2, is_facts=True)
    await desk.round(is_facts=True)
    assert desk.sender.sent == {*range(1, 21)}


@pytest.mark.parametrize("is_facts", [True, False])
async def test_after_a_lost_reply_to_a_commit_everything_is_sent(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, *, is_facts: bool
) -> None:
    desk.log.append(*events(1, 20))
    if not is_facts:
        await desk.round(is_facts=True)
        await desk.purge(*range(1, 21))
        desk.sender.sent.clear()
        desk.cache.deleted.clear()
    lost: list[str] = []

    begin = desk.store.transaction

    @contextlib.asynccontextmanager
    async def transaction() -> AsyncIterator[SqlReplayTransaction]:
        async with begin() as given:
            yield given
        if not lost:
            lost.append("reply")
            raise Unavailable("no reply")

    monkeypatch.setattr(desk.store, "transaction", transaction)
    await desk.round(is_facts=is_facts)
    assert lost
    assert desk.sender.sent == {*range(1, 21)}
    assert desk.cache.deleted == {*range(1, 21)}


async def test_cache_entries_of_a_batch_that_was_broken_off_go_although_the_next_try_is_broken_off_as_well(
    desk: Desk,
) -> None:
    desk.log.append(*events(1, 20))
    await desk.round(is_facts=True)
    await desk.purge(*range(1, 21))
    desk.cache.deleted.clear()
    desk.cache.is_broken = True
    with pytest.raises(Broken):
        await desk.round(is_facts=False)
    desk.cache.is_broken = False
    await desk.broken_off(at=2, is_facts=False, batch_size=4)
    await desk.round(is_facts=False, batch_size=4)
    assert desk.cache.deleted == {*range(1, 21)}


async def test_no_batch_is_computed_while_cache_entries_of_another_go(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """memcached has a fifth of a second to answer: a fold beside it would take that for a failure."""
    desk.log.append(*events(1, 20))
    await desk.round(is_facts=True)
    await desk.purge(*range(1, 21))
    delete = desk.cache.delete
    under_way: set[int] = set()
    batches = []

    async def computed(*given: Any, **named: Any) -> BatchReport:  # noqa: ANN401 - what the product gives
        batches.append(set(under_way))
        return await compute_batch(*given, **named)

    async def deleted(conv_ids: Sequence[int]) -> int:
        under_way.update(conv_ids)
        await asyncio.sleep(0.01)
        under_way.clear()
        return await delete(conv_ids)

    monkeypatch.setattr(replay_work, "compute_batch", computed)
    monkeypatch.setattr(desk.cache, "delete", deleted)
    await desk.round(is_facts=False, batch_size=4)
    assert batches == [set()] * 5


async def test_what_is_purged_after_a_replay_was_broken_off_comes_back(desk: Desk) -> None:
    desk.log.append(*events(1, 20))
    await desk.round(is_facts=True)
    wanted = await desk.touches()
    await desk.broken_off(at=3, is_facts=False, batch_size=4)
    await desk.purge(*range(1, 21))
    await desk.round(is_facts=False, batch_size=4)
    assert await desk.touches() == wanted


async def test_what_is_purged_after_a_partition_was_done_comes_back(desk: Desk) -> None:
    """Another partition was not done: the run goes on."""
    desk.log.append(*events(1, 3))
    await desk.both()
    wanted = await desk.touches()
    await desk.purge(1, 2, 3)
    await desk.both()
    assert await desk.touches() == wanted


async def test_records_that_came_after_a_replay_was_broken_off_are_read(desk: Desk) -> None:
    desk.log.append(*events(1, 3))
    await desk.both()
    desk.log.append(*events(4, 3))
    await desk.both()
    assert len(await desk.touches()) == 6
    assert desk.log.starts == [{"clicks": 0, "conversions": 0}, {"clicks": 3, "conversions": 3}]
    await desk.both()
    assert len(desk.log.starts) == 2, "nothing is read twice"


async def test_records_that_tell_of_nothing_new_do_not_begin_the_journeys_anew(desk: Desk) -> None:
    """Such as a replay's own: what the facts of one partition send on to another."""
    desk.log.append(*events(1, 20))
    await desk.round(is_facts=True)
    await desk.broken_off(at=4, is_facts=False, batch_size=4)
    for computed, repeated in ((8, 3), (0, 5)):
        desk.sender.sent.clear()
        desk.log.append(*events(repeated, 2))
        await desk.both()
        assert len(desk.sender.sent) == computed
    await desk.purge(1)
    desk.log.append(*events(7, 1))
    await desk.both()
    assert len(desk.sender.sent) == 20, "what was purged comes back"
    desk.log.append(*events(21, 1))
    await desk.both()
    assert len(desk.sender.sent) == 21


async def test_a_log_that_was_cut_behind_the_noted_place_is_read_from_where_it_begins(desk: Desk) -> None:
    desk.log.append(*events(1, 20))
    desk.log.size = 10
    await desk.broken_off(at=1, is_facts=True)
    await desk.round(is_facts=True, starts={"clicks": 15, "conversions": 12})
    assert desk.log.starts[-1] == {"clicks": 15, "conversions": 12}
