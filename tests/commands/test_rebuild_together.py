"""Rebuilds beside one another and beside a writer, and one that is killed: real processes on one database."""

import asyncio
import contextlib
import random
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar

from stream.agents.firing import HoursAtWork, Order, fire
from stream.commands.rebuild_report import Telling, WindowOfHours
from stream.commands.rebuilding import AccountRebuild, Means, patiently
from stream.core.facts import Journey, Outcome
from stream.core.hours import HourKey
from stream.core.results import HourContents
from tables.sql.database import Database, open_database
from tables.sql.facts import HOURS_GROUP, Writing
from tables.sql.hour_store import SqlHourStore, SqlHourTransaction
from tables.sql.upgrade import upgrade_schema
from tests.support.hour_rows import polled
from tests.support.processes import Environment, succeed, wait_for
from tests.support.rebuilds import (
    BASE,
    HOUR,
    assert_hours_fit,
    converted,
    execute,
    hours_written,
    put,
    put_into,
    uniform,
)
from tests.support.rows import query

HOURS = 150
BUSY_HOURS = 12  # that somebody else changes meanwhile

WRITING = Writing(owner="a test", writes_conversion_logs=False, clock=lambda: 1_800_000_000, topic_group=HOURS_GROUP)


def window(hours: int) -> tuple[str, ...]:
    return ("--start", str(BASE), "--end", str(BASE + hours * HOUR))


def url_of(env: Environment) -> str:
    return env["TOUCHSTREAM_DATABASE_URL"]


class Rebuild:
    """A process with its outputs in files."""

    def __init__(self, env: Environment, *, hours: int) -> None:
        folder = Path(env["HOME"]) / f"rebuild-{uuid.uuid4().hex[:6]}"
        folder.mkdir()
        self.out, self.err = folder / "out", folder / "err"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "stream", "rebuild", *window(hours)],
                env=env,
                cwd=env["HOME"],
                stdout=out,
                stderr=err,
            )

    @property
    def said(self) -> str:
        return self.out.read_text()

    def succeeded(self) -> str:
        assert self.process.wait(120) == 0, self.said + self.err.read_text()
        assert self.err.read_text() == ""
        return self.said


@contextlib.contextmanager
def rebuild(env: Environment, *, hours: int = HOURS) -> Iterator[Rebuild]:
    running = Rebuild(env, hours=hours)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()


def test_of_two_at_once_one_works_and_the_other_says_that_it_was_done(env: Environment) -> None:
    journeys = uniform(HOURS, 4)
    put(url_of(env), journeys)
    with rebuild(env) as one, rebuild(env) as other:
        said = [one.succeeded(), other.succeeded()]
    worked = [each for each in said if f"user 7: {HOURS} hours, {HOURS * 4} conversions" in each]
    idle = [each for each in said if "user 7: already processed" in each]
    assert (len(worked), len(idle)) == (1, 1)
    assert [each.count("waiting for it to end") for each in worked] == [0]
    assert [each.count("waiting for it to end") for each in idle] <= [1]
    assert_hours_fit(url_of(env), journeys)
    assert query(url_of(env), "SELECT DISTINCT revision FROM `202_stream_hours`") == [(1,)]


def test_one_that_is_killed_is_waited_for_until_its_lease_ends_and_done_again(env: Environment) -> None:
    journeys = uniform(HOURS, 4)
    put(url_of(env), journeys)
    with rebuild(env) as killed:
        wait_for(lambda: hours_written(url_of(env)) >= 5, "the first hours")
        killed.process.kill()
        killed.process.wait()
    assert 5 <= hours_written(url_of(env)) < HOURS
    assert query(url_of(env), "SELECT state FROM `202_stream_runs`") == [("running",)]
    with rebuild(env) as second:
        wait_for(lambda: "waiting for it to end" in second.said, "the second to see the first one's lease")
        assert second.process.poll() is None
        execute(url_of(env), "UPDATE `202_stream_runs` SET lease_until = 1")  # as if half a minute had gone by
        said = second.succeeded()
    assert said.count("waiting for it to end") == 1
    assert f"user 7: {HOURS} hours, {HOURS * 4} conversions" in said
    assert_hours_fit(url_of(env), journeys)
    states = query(url_of(env), "SELECT state FROM `202_stream_runs` ORDER BY run_id")
    assert states == [("failed",), ("finished",)]


def test_one_whose_window_was_taken_over_meanwhile_leaves_it_to_the_other(env: Environment) -> None:
    journeys = uniform(HOURS, 4)
    put(url_of(env), journeys)
    # As one does that takes over, with the fifth hour: from outside it may come too late, for SQLite's lock is unfair.
    execute(
        url_of(env),
        "CREATE TRIGGER taken AFTER INSERT ON `202_stream_hours` FOR EACH ROW BEGIN UPDATE `202_stream_runs`"
        " SET state = 'failed' WHERE (SELECT COUNT(*) FROM `202_stream_hours`) = 5; END",
    )
    with rebuild(env) as one:
        said = one.succeeded()
    assert f"user 7: {HOURS} hours" in said
    assert query(url_of(env), "SELECT state FROM `202_stream_runs` ORDER BY run_id") == [("failed",), ("finished",)]
    assert_hours_fit(url_of(env), journeys)


def test_one_that_is_stopped_can_be_repeated_at_once(env: Environment) -> None:
    journeys = uniform(HOURS, 4)
    put(url_of(env), journeys)
    with rebuild(env) as stopped:
        wait_for(lambda: hours_written(url_of(env)) >= 5, "the first hours")
        stopped.process.terminate()
        assert stopped.process.wait(10) == 1, stopped.said
        assert "stopped" in stopped.err.read_text()
    assert query(url_of(env), "SELECT state, error FROM `202_stream_runs`") == [("failed", "stopped")]
    assert "waiting" not in succeed("rebuild", *window(HOURS), env=env)
    assert_hours_fit(url_of(env), journeys)


def test_a_writer_and_rebuilds_of_the_same_hours_leave_what_the_journeys_give(env: Environment) -> None:
    journeys = {each.conversion.conv_id: each for each in uniform(BUSY_HOURS, 40)}
    put(url_of(env), list(journeys.values()))
    with polled(url_of(env)), contextlib.ExitStack() as stack:
        # Windows that differ, so that none of them waits for another.
        running = [stack.enter_context(rebuild(env, hours=BUSY_HOURS + more)) for more in range(3)]
        asyncio.run(write_until_ended(url_of(env), running, journeys))
        said = [each.succeeded() for each in running]
    assert all(f"user 7: {BUSY_HOURS} hours" in each for each in said)
    assert_hours_fit(url_of(env), [each for each in journeys.values() if each.outcome is Outcome.COUNTED])


async def write_until_ended(url: str, running: list[Rebuild], journeys: dict[int, Journey]) -> None:
    """As a worker does it: journeys first, then their marks, until the rebuilds have ended."""
    database = open_database(url)
    at_work, chance = HoursAtWork(1_000_000), random.Random(7)
    try:
        while any(each.process.poll() is None for each in running):
            changed = [changed_journey(chance, journeys[conv_id]) for conv_id in chance.sample(sorted(journeys), 20)]
            journeys |= {each.conversion.conv_id: each for each in changed}
            await write(database, at_work, changed)
            await asyncio.sleep(0.02)  # SQLite does not queue its writers: the others must find it free
    finally:
        await database.close()


class PausingTransaction(SqlHourTransaction):
    """Waits where a rebuild has read an hour, and not written it yet."""

    has_read: ClassVar[asyncio.Event]
    may_write: ClassVar[asyncio.Event]

    async def read_contents(self, keys: Collection[HourKey]) -> Mapping[HourKey, HourContents]:
        contents = await super().read_contents(keys)
        self.has_read.set()
        await self.may_write.wait()
        return contents


class PausingStore(SqlHourStore):
    """Of a rebuild in this process."""

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[SqlHourTransaction]:
        async with self._database.transaction() as connection:
            yield PausingTransaction(connection, self._writing, scopes=self._scopes)


def test_a_change_between_reading_and_writing_of_an_hour_is_not_lost(fresh_database: str) -> None:
    asyncio.run(upgrade_schema(fresh_database))
    before = uniform(1, 10)
    put(fresh_database, before)
    after = [converted(1, BASE + 30, payout=77_700, version=2), *before[1:]]
    asyncio.run(changed_in_between(fresh_database, before, after))
    assert_hours_fit(fresh_database, after)


async def changed_in_between(url: str, before: list[Journey], after: list[Journey]) -> None:
    PausingTransaction.has_read, PausingTransaction.may_write = asyncio.Event(), asyncio.Event()
    ours, workers = open_database(url), open_database(url)
    at_work = HoursAtWork(1_000_000)
    try:
        await fire_marks(workers, at_work, before)
        window = WindowOfHours(BASE, BASE + HOUR)
        means = Means(
            database=ours,
            store=PausingStore(ours, WRITING, scopes="all"),
            final_before=0,
            with_extra_scopes=True,
            is_forced=False,
            clock=lambda: 1_800_000_000,
        )
        rebuilding = asyncio.create_task(AccountRebuild(means, 7, window, Telling(window, is_silent=True)).run())
        await PausingTransaction.has_read.wait()
        writing = asyncio.create_task(write(workers, at_work, after[:1]))
        await asyncio.wait({writing}, timeout=1)  # it comes as far as it can
        PausingTransaction.may_write.set()
        await asyncio.gather(rebuilding, writing)
    finally:
        await ours.close()
        await workers.close()


async def write(database: Database, at_work: HoursAtWork, changed: list[Journey]) -> None:
    await patiently(partial(put_into, database, changed), limit=30)
    await patiently(partial(fire_marks, database, at_work, changed), limit=30)


def changed_journey(chance: random.Random, journey: Journey) -> Journey:
    """Another payout, moved to another hour, or refunded; or counted again."""
    conversion = journey.conversion
    conv_time = BASE + chance.randrange(BUSY_HOURS * HOUR) if chance.random() < 0.5 else conversion.conv_time
    payout = 10 * chance.randrange(500_000)  # totals are rounded to 0.0001
    new = converted(conversion.conv_id, conv_time, payout=payout, version=journey.version + 1)
    if chance.random() < 0.2:
        return new._replace(outcome=Outcome.DELETED, touches=())
    return new


async def fire_marks(database: Database, at_work: HoursAtWork, changed: list[Journey]) -> None:
    order = Order(marks=[(each.conversion.user_id, each.conversion.conv_id) for each in changed])
    async with SqlHourStore(database, WRITING, scopes="all").transaction() as transaction:
        fired = await fire(transaction, at_work, order, with_extra_scopes=True)
    at_work.keep(fired.memory)
