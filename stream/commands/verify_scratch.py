"""The log alone, computed once more from its beginning, in a database of its own below the data folder."""

import asyncio
import contextlib
import fcntl
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stream.agents.firing import HoursAtWork, Order, fire
from stream.agents.topic_names import topic_names
from stream.clock import unix_now
from stream.commands.hour_access import hour_store
from stream.commands.replay_plan import DAY_SECONDS, Plan, Wish
from stream.commands.replay_report import Telling
from stream.commands.replay_work import Job, work_on
from stream.config import Settings
from stream.core.errors import Misconfigured
from stream.core.facts import Journey, Outcome
from stream.core.hours import HOUR_SECONDS, HourKey
from stream.core.keys import partition_of
from stream.replay.storing import Scope
from tables.cache import JourneyCache
from tables.sql.database import Database
from tables.sql.facts import SqlFactStore, Writing
from tables.sql.journeys import read_journeys
from tables.sql.purge_ranges import Meant
from tables.sql.purges import look_to_purge, purge_batch
from tables.sql.rebuild_ranges import read_accounts
from tables.sql.replays import count_conversions
from tables.sql.scratch import ScratchStore, copy_configurations
from tables.sql.standing_rows import Span, conversions_by_hour, pages_of_conversions

_CONVERSIONS_A_FIRE = 20_000
_HOURS_A_FIRE = 100


@contextlib.contextmanager
def scratch_folder(data_dir: Path) -> Iterator[Path]:
    """One of ours alone, gone at the end. What a killed process has left goes, too. Raises Misconfigured."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        _remove_left_over(data_dir)
        made = Path(tempfile.mkdtemp(prefix=".verify-", dir=data_dir))
        lock = (made / "lock").open("w")
    except OSError as error:
        raise Misconfigured(f"data folder {data_dir} cannot be used: {error}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Others look at it under this name only: locked.
        folder = made.rename(data_dir / made.name.removeprefix("."))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_left_over(data_dir: Path) -> None:
    for folder in data_dir.glob("verify-*"):
        with contextlib.suppress(OSError), (folder / "lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)


class _Nowhere:
    """What a replay would publish is for those who keep the installation's rows."""

    async def send(self, records: Sequence[Any]) -> None:
        """Thrown away."""


class Scratch:
    """A verification's own database. Its steps come in the order in which they stand here."""

    def __init__(self, settings: Settings, wish: Wish, plan: Plan, *, installed: Database, scratch: Database) -> None:
        self._settings = settings
        self._wish = wish
        self._plan = plan
        self._installed = installed
        self._scratch = scratch
        self._names = topic_names(settings)
        self._lookback = settings.lookback_days * DAY_SECONDS
        self._writing = Writing(
            owner="verify", writes_conversion_logs=settings.conversion_logs == "own", clock=lambda: int(unix_now())
        )
        self.unverified = 0  # conversions of the range that rest on what the log no longer holds

    async def compute(self, telling: Telling) -> None:
        """All facts of the log, of all accounts: a conversion may rest on what another one's log says of its click."""
        await copy_configurations(self._installed, self._scratch)
        telling.begin_round("records", self._plan.records)
        await self._work(telling, is_facts=True)
        start, end = self._whole_hours()
        conversions = await count_conversions(self._scratch, self._wish.users, start=start, end=end)
        telling.begin_round("conversions", conversions)
        await self._work(telling, is_facts=False)

    async def _work(self, telling: Telling, *, is_facts: bool) -> None:
        start, end = self._whole_hours()
        ranges = self._plan.ranges
        job = Job(
            0,
            is_facts,
            () if is_facts else self._wish.users,
            start,
            end,
            self._wish.batch_size,
            [part.partition for part in ranges],
            [part.starts for part in ranges],
            [part.ends for part in ranges],
        )
        await work_on(
            self._settings,
            job,
            Scope(self._names, self._lookback),
            store=ScratchStore(self._scratch, self._writing),
            writer=_Nowhere(),
            cache=JourneyCache("", 0),
            teller=telling,
        )

    async def take_over_what_no_log_tells(self) -> None:
        """Journeys that were purged by hand are purged here, too; those that the log is too short for are copied.

        So hours that hold such conversions can be compared all the same.
        """
        start, end = self._whole_hours()
        for user_id in await accounts_of(self._installed, self._wish):
            async for page in pages_of_conversions(self._installed, Span(user_id, start, end)):
                await self._take_over(page)

    async def _take_over(self, conv_ids: Sequence[int]) -> None:
        standing = await journeys_by_id(self._installed, conv_ids)
        wanted = [each for each in standing.values() if each.purged or self._plan.begins_at]
        if not wanted:
            return
        computed = await journeys_by_id(self._scratch, [each.conversion.conv_id for each in wanted])
        copied, purged = [], []
        for journey in wanted:
            conversion = journey.conversion
            ours = computed.get(conversion.conv_id)
            if self._is_beyond_the_log(journey, ours):
                copied.append(journey)
                if self._wish.start <= conversion.conv_time <= self._wish.end:
                    self.unverified += 1
            elif journey.purged and ours is not None:
                purged.append(Meant(conversion.conv_id, ours.conversion.user_id, ours.conversion.campaign_id))
        if copied:
            store = SqlFactStore(self._scratch, self._writing)
            async with store.transaction() as transaction:
                await transaction.write_journeys(copied)
        if purged:
            partitions = self._names.partitions
            await purge_batch(self._scratch, purged, look_to_purge(), partitions=partitions, now=self._writing.clock())

    def _is_beyond_the_log(self, journey: Journey, ours: Journey | None) -> bool:
        """Does it rest, or may it rest, on records that were removed from the log?"""
        begins_at, conversion = self._plan.begins_at, journey.conversion
        if not begins_at:
            return False
        partition = partition_of(conversion.user_id, conversion.campaign_id, self._names.partitions)
        if conversion.conv_time - self._lookback < begins_at.get(partition, 0):
            return True
        if ours is None:
            return False
        # Of these the log may lack a click of any time, or a conversion that counts in their place.
        is_click_gone = ours.click_unknown and not journey.click_unknown
        return is_click_gone or (journey.outcome is Outcome.DUPLICATE and ours.outcome is Outcome.COUNTED)

    async def fire_hours(self, telling: Telling) -> None:
        """Whole hours that the range touches, as a rebuild does it."""
        store = hour_store(self._settings, self._scratch, owner="verify")
        by_account = {}
        for user_id in await accounts_of(self._scratch, self._wish):
            async with self._scratch.reading() as connection:
                by_account[user_id] = await conversions_by_hour(connection, Span(user_id, *self._whole_hours()))
        telling.begin_round("hours", sum(map(len, by_account.values())))
        for user_id, hours in by_account.items():
            for portion in _portions(hours):
                order = Order(anew=[HourKey(user_id, date_hour) for date_hour in portion])
                async with store.transaction() as transaction:
                    await fire(transaction, HoursAtWork(0), order, with_extra_scopes=self._settings.scopes == "all")
                telling.counted({"hours": len(portion)})
                await asyncio.sleep(0)

    def _whole_hours(self) -> tuple[int, int]:
        return whole_hours(self._wish)


def whole_hours(wish: Wish) -> tuple[int, int]:
    """First and last second of the hours that the range touches."""
    return (
        wish.start - wish.start % HOUR_SECONDS,
        wish.end - wish.end % HOUR_SECONDS + HOUR_SECONDS - 1,
    )


async def accounts_of(database: Database, wish: Wish) -> Sequence[int]:
    """Ascending, those that were asked for."""
    async with database.reading() as connection:
        return [user_id for user_id in await read_accounts(connection) if not wish.users or user_id in wish.users]


async def journeys_by_id(database: Database, conv_ids: Sequence[int]) -> Mapping[int, Journey]:
    async with database.reading() as connection:
        found = await read_journeys(connection, "conv_id", conv_ids)
    return {each.conversion.conv_id: each for each in found}


def _portions(hours: Sequence[tuple[int, int]]) -> Iterator[list[int]]:
    """Of hours with their conversions."""
    portion: list[int] = []
    conversions = 0
    for date_hour, count in hours:
        if portion and (conversions + count > _CONVERSIONS_A_FIRE or len(portion) == _HOURS_A_FIRE):
            yield portion
            portion, conversions = [], 0
        portion.append(date_hour)
        conversions += count
    if portion:
        yield portion
