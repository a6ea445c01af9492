"""The hours agent: marks of changed conversions in, snapshots and credits in SQL and on their topics out.

Decides nothing: what fits and what is written is found by `firing`; here is when an hour is looked at, and what leaves.
"""

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from stream.agents.firing import Fired, FiredHour, HoursAtWork, Order, fire
from stream.agents.hour_outputs import Publication, ResultRecords, ResultTopics, whole
from stream.agents.hour_ports import HourStore, HourTransaction
from stream.agents.hour_reading import Mark
from stream.agents.taking import take_over
from stream.core.errors import RefusedByDatabase
from stream.core.hours import HourKey, final_before
from stream.core.keys import partition_of_account
from stream.core.progress import Advance
from stream.core.results import HourRow
from stream.engine.barrier import Stored, Taken
from stream.engine.chunk import Chunk
from stream.engine.start import LogPlace
from stream.metrics import Metrics

log = logging.getLogger(__name__)

CONVERSIONS_IN_MEMORY = 300_000  # about 100 MB
_HOURS_AT_A_TIME = 1000  # of those that are due without a change of theirs
_HOURS_RESTATED_AT_A_TIME = 20  # of those whose models or settings changed: all their conversions are read
_RECORDS_AT_A_TIME = 50_000  # of hours that are published whole
_UNSETTLED_KNOWN_SECONDS = 2
_SIGN_OF_LIFE_SECONDS = 60
_CURRENT_SECONDS = 600  # behind the clock: an idle partition says every 20 seconds that it is


@dataclass(frozen=True, slots=True, kw_only=True)
class HoursSettings:
    """How hours are worked at."""

    owner: str
    topics: ResultTopics
    source_partitions: int  # of clicks and conversions: whose watermarks decide what is final
    partitions: int  # of the journeys topic
    allowed_lateness: int  # seconds
    with_extra_scopes: bool


@dataclass(frozen=True, slots=True)
class _Standing:
    """What is known of a partition between two chunks."""

    epoch: int
    watermark: int
    next_offsets: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Receipt:
    """What was sent, and as whose."""

    partition: int
    epoch: int
    publications: Sequence[Publication]


class HoursHandler:
    """What the barrier calls for each chunk; satisfies `stream.engine.barrier.ChunkHandler`."""

    def __init__(
        self,
        settings: HoursSettings,
        store: HourStore,
        *,
        metrics: Metrics,
        log_place: Callable[[int, Mapping[str, int | None]], Awaitable[LogPlace]],
        clock: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._store = store
        self._metrics = metrics
        self._log_place = log_place
        self._clock = clock
        self._standings: dict[int, _Standing] = {}
        self._at_work = HoursAtWork(CONVERSIONS_IN_MEMORY)
        self._signed_at = 0
        self._watermark = 0
        self._unsettled: tuple[int, Mapping[HourKey, HourRow]] = (0, {})

    async def take(self, partition: int, committed: Mapping[str, int | None]) -> Taken:
        place = await self._log_place(partition, committed)
        row = await take_over(self._store, partition, place, owner=self._settings.owner)
        self._standings[partition] = _Standing(row.epoch, row.watermark, row.next_offsets)
        return Taken(row.epoch)

    async def store(self, chunk: Chunk, *, is_repeated: bool) -> Stored:
        standing = self._standings[chunk.partition]
        marks: set[Mark] = {arrival.content for arrival in chunk.arrivals if arrival.content is not None}
        # A repetition may come long after the chunk was handed out; what lies behind it now is not known.
        final_from = 0 if is_repeated else await self._final_before(chunk)
        due, is_unfinished = await self._due(chunk.partition, final_from)
        if not marks and not due and chunk.next_offsets == standing.next_offsets:
            await self._sign_of_life(chunk)
            return Stored()
        moved_on = _moved_on(standing, chunk)
        order = Order(marks=marks, due=due.keys(), final_before=final_from)
        async with self._store.transaction() as transaction:
            await transaction.pass_fence(
                Advance(chunk.partition, standing.epoch, chunk.next_offsets, moved_on.watermark, newest_conversion=0)
            )
            fired = await fire(transaction, self._at_work, order, with_extra_scopes=self._settings.with_extra_scopes)
            publications = await self._publications(transaction, fired, due.keys())
        self._remember(chunk, moved_on, fired)
        await self._sign_of_life(chunk)
        return Stored(
            outputs=ResultRecords(self._settings.topics, publications),
            receipt=_Receipt(chunk.partition, standing.epoch, publications),
            is_unfinished=is_unfinished,
        )

    def _remember(self, chunk: Chunk, moved_on: _Standing, fired: Fired) -> None:
        """What was committed."""
        self._at_work.keep(fired.memory)
        if self._standings[chunk.partition].epoch == moved_on.epoch:  # else it was taken anew while we committed
            self._standings[chunk.partition] = moved_on
        self._count(fired)

    async def delete_cached(self, stored: Stored) -> None:
        """Nobody caches hours."""

    async def note_sent(self, stored: Stored) -> None:
        receipt: _Receipt | None = stored.receipt
        if receipt is None or not receipt.publications:
            return
        await self._store.mark_published(
            receipt.partition, receipt.epoch, {each.hour: each.revision for each in receipt.publications}
        )

    def refused(self, chunk: Chunk, error: RefusedByDatabase) -> Chunk:
        """All values were read from SQL and fit its columns: a refusal is no fault of the record."""
        raise error

    async def _final_before(self, chunk: Chunk) -> int:
        """0 while records of ours wait: hours may still gain from them."""
        if not chunk.is_last:
            return 0
        self._watermark = await self._store.read_watermark(self._settings.source_partitions)
        return final_before(self._watermark, self._settings.allowed_lateness)

    async def _due(self, partition: int, final_from: int) -> tuple[Mapping[HourKey, HourRow], bool]:
        """Hours of the partition's accounts that ask for something though no conversion of theirs changed.

        And whether there are more of them than a transaction shall have: the next one comes at once then.
        """
        unsettled = {
            key: row
            for key, row in (await self._all_unsettled()).items()
            if partition_of_account(key.user_id, self._settings.partitions) == partition
        }
        if not unsettled:
            return {}, False
        revisions = await self._store.read_revisions({key.user_id for key in unsettled})
        due: dict[HourKey, HourRow] = {}
        restated = 0
        for key, row in sorted(unsettled.items()):
            is_other = not row.is_final and row.configuration != revisions[key.user_id]
            is_due = row.published_revision != row.revision or (not row.is_final and key.date_hour < final_from)
            restated += is_other
            if (is_other and restated <= _HOURS_RESTATED_AT_A_TIME) or (is_due and not is_other):
                due[key] = row
            if len(due) == _HOURS_AT_A_TIME:
                break
        is_unfinished = restated > _HOURS_RESTATED_AT_A_TIME or len(due) == _HOURS_AT_A_TIME
        if is_unfinished:
            self._unsettled = (0, {})  # as they stand now they would be due once more
        return due, is_unfinished

    async def _all_unsettled(self) -> Mapping[HourKey, HourRow]:
        """Read every other second at most, for all partitions: a fire looks at the rows again."""
        now = self._clock()
        if abs(now - self._unsettled[0]) >= _UNSETTLED_KNOWN_SECONDS:
            self._unsettled = (now, await self._store.read_unsettled())
        return self._unsettled[1]

    async def _publications(
        self, transaction: HourTransaction, fired: Fired, due: Collection[HourKey]
    ) -> Sequence[Publication]:
        """The change alone where the topics had all before it; else the hour as it stands now."""
        changed = {each.change.key: each for each in fired.hours}
        unpublished = {key for key in {*changed, *due} if (row := fired.before[key]).published_revision != row.revision}
        publications = []
        records = 0
        for key in sorted(unpublished):
            if records > _RECORDS_AT_A_TIME:
                break  # the others stay due
            results = await transaction.read_results([key], with_credits=True)
            publications.append(whole(key, results[key]))
            records += len(results[key].credits)
        turned_final = {
            key for key, each in changed.items() if each.change.row.is_final and not each.before.is_final
        } - unpublished
        final = dict(await transaction.read_results(turned_final, with_credits=False)) if turned_final else {}
        for key in sorted(changed.keys() - unpublished):
            publication = _publication_of(changed[key])
            if key in final:
                publication = replace(publication, snapshots=final[key].snapshots)
            publications.append(publication)
        return publications

    async def _sign_of_life(self, chunk: Chunk) -> None:
        """While the sources are worked on and nothing of ours waits."""
        now = self._clock()
        is_current = chunk.is_last and now - self._watermark <= _CURRENT_SECONDS
        if is_current and abs(now - self._signed_at) >= _SIGN_OF_LIFE_SECONDS:
            await self._store.sign_of_life()
            self._signed_at = now

    def _count(self, fired: Fired) -> None:
        metrics = self._metrics
        metrics.hours_fired.inc(len(fired.hours))
        metrics.credits_written.inc(sum(len(each.change.credits) for each in fired.hours))
        metrics.hours_in_memory.set(self._at_work.conversions)
        for each in fired.hours:
            for model_id, reason in each.change.row.problems.items():
                if model_id not in each.before.problems:
                    key = each.change.key
                    log.warning(
                        "model %s of user %s has no results from hour %s on: %s",
                        model_id, key.user_id, key.date_hour, reason,
                    )  # fmt: skip


def _moved_on(standing: _Standing, chunk: Chunk) -> _Standing:
    watermark = max((arrival.ordered_at for arrival in chunk.arrivals), default=0)
    return replace(standing, watermark=max(standing.watermark, watermark), next_offsets=chunk.next_offsets)


def _publication_of(each: FiredHour) -> Publication:
    change = each.change
    return Publication(
        change.key,
        change.row.revision,
        change.row.is_final,
        snapshots=change.snapshots,
        credits=change.credits,
        removals=each.removals,
    )
