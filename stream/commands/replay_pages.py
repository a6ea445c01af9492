"""The stored conversions of a partition, in the order of keys, a batch at a time."""

from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from stream.core.keys import partition_of
from tables.sql.replays import FoundConversion, InKeyOrder, SqlReplayStore

_PAGE_BATCHES = 4  # so many batches are asked for at once
_CAMPAIGNS_A_PAGE = 500


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which conversions."""

    users: frozenset[int]  # empty: all
    start: int  # conv_time, both ends included
    end: int
    partitions: int  # of the topics


class StoredConversions:
    """`patiently` calls what it is given until the database answers."""

    def __init__(
        self, store: SqlReplayStore, wanted: Wanted, patiently: Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]
    ) -> None:
        self._store = store
        self._wanted = wanted
        self._patiently = patiently
        self._campaigns: dict[int, list[tuple[int, int, int]]] = {}

    async def batches(
        self, partition: int, size: int, *, after: InKeyOrder | None
    ) -> AsyncIterator[Sequence[FoundConversion]]:
        """Behind `after`; each full but the last."""
        if not self._campaigns:
            self._campaigns = await self._campaigns_by_partition()
        campaigns = [each for each in self._campaigns[partition] if after is None or each[:2] >= after[:2]]
        waiting: list[FoundConversion] = []
        async for page in self._pages(campaigns, _PAGE_BATCHES * size, after):
            waiting += page
            while len(waiting) >= size:
                yield waiting[:size]
                del waiting[:size]
        if waiting:
            yield waiting

    async def _pages(
        self, campaigns: Sequence[tuple[int, int, int]], limit: int, after: InKeyOrder | None
    ) -> AsyncIterator[Sequence[FoundConversion]]:
        """Campaigns with few conversions many at a time: a question for each would cost more than its answer."""
        small: list[tuple[int, int]] = []
        conversions = 0
        for user_id, campaign_id, count in campaigns:
            is_begun = after is not None and (user_id, campaign_id) == after[:2]
            if small and (is_begun or conversions + count > limit or len(small) == _CAMPAIGNS_A_PAGE):
                yield await self._whole(small)
                small, conversions = [], 0
            if is_begun or count > limit:
                begin = after if is_begun and after is not None else InKeyOrder(user_id, campaign_id, "", 0, 0)
                async for page in self._pages_of_one(begin, limit):
                    yield page
            else:
                small.append((user_id, campaign_id))
                conversions += count
        if small:
            yield await self._whole(small)

    async def _campaigns_by_partition(self) -> dict[int, list[tuple[int, int, int]]]:
        """With the numbers of their conversions, ascending. Whatever comes later is the workers' to compute."""
        wanted = self._wanted
        found = await self._patiently(lambda: self._store.read_campaigns(start=wanted.start, end=wanted.end))
        campaigns = defaultdict(list)
        for each in found:
            if not wanted.users or each[0] in wanted.users:
                campaigns[partition_of(each[0], each[1], wanted.partitions)].append(each)
        return campaigns

    async def _whole(self, campaigns: Sequence[tuple[int, int]]) -> Sequence[FoundConversion]:
        wanted, campaigns = self._wanted, list(campaigns)
        found: Sequence[FoundConversion] = await self._patiently(
            lambda: self._store.read_whole(campaigns, start=wanted.start, end=wanted.end)
        )
        return found

    async def _pages_of_one(self, begin: InKeyOrder, limit: int) -> AsyncIterator[Sequence[FoundConversion]]:
        wanted, place = self._wanted, begin
        while True:

            async def read(place: InKeyOrder = place) -> Sequence[FoundConversion]:
                return await self._store.read_page(place, start=wanted.start, end=wanted.end, limit=limit)

            page = await self._patiently(read)
            yield page
            if len(page) < limit:
                return
            place = page[-1].place
