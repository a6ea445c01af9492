"""What the hours need of the database, as Protocols."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from stream.agents.ports import Ownership
from stream.core.configuration import Configuration
from stream.core.facts import Journey
from stream.core.hours import HourKey
from stream.core.progress import Advance
from stream.core.results import CreditedAt, HourChange, HourContents, HourResults, HourRow, Removal


class HourTransaction(Protocol):
    """One SQL transaction. Whoever holds the lock of an account is alone with its hours, models and settings."""

    async def lock_accounts(self, user_ids: Collection[int]) -> None:
        """In ascending order, rows made if absent; held until the end. One that never had a model gets Last Touch."""

    async def read_configurations(self, user_ids: Collection[int]) -> Mapping[int, Configuration]:
        """One for each id."""

    async def read_journeys(self, conv_ids: Collection[int]) -> Sequence[Journey]:
        """Those that exist."""

    async def read_credited(self, conv_ids: Collection[int]) -> Mapping[int, CreditedAt]: ...

    async def read_hours(self, keys: Collection[HourKey]) -> Mapping[HourKey, HourRow]:
        """Those that were fired before."""

    async def read_contents(self, keys: Collection[HourKey]) -> Mapping[HourKey, HourContents]:
        """One for each key."""

    async def read_uncredited(self, keys: Collection[HourKey]) -> Collection[tuple[int, int]]:
        """Account and conversion, of those whose journey and credits do not fit each other in these hours.

        Counted there and credited elsewhere, in another version or nowhere; or credited there and not counted there.
        """

    async def keep_alive(self) -> None:
        """Called now and then while computing: servers hang up on a transaction that is silent. Others get a turn."""

    async def write(self, changes: Sequence[HourChange]) -> Mapping[HourKey, Sequence[Removal]]:
        """Returns, and stores, the records that must become tombstones: rows that went and were not written again."""

    async def read_results(self, keys: Collection[HourKey], *, with_credits: bool) -> Mapping[HourKey, HourResults]:
        """As this transaction left them."""


class FencedHourTransaction(HourTransaction, Protocol):
    """That of a worker, which owns a partition."""

    async def pass_fence(self, advance: Advance) -> None:
        """First of all. Raises Fenced if owner or epoch are not ours."""


class HourStore(Ownership, Protocol):
    """The database as the worker sees it. Raises Unavailable, RefusedByDatabase or Fenced."""

    def transaction(self) -> AbstractAsyncContextManager[FencedHourTransaction]:
        """Commits when left without an exception, rolls back otherwise."""

    async def read_unsettled(self) -> Mapping[HourKey, HourRow]:
        """Of all accounts: hours that are not final, or have a revision that is not published."""

    async def read_revisions(self, user_ids: Collection[int]) -> Mapping[int, int]:
        """Of the configurations as they are committed; without a lock, to see what is due."""

    async def read_watermark(self, partitions: int) -> int:
        """Least effective watermark of the sources' partitions, 0 where one of that number has none yet."""

    async def mark_published(self, partition: int, epoch: int, revisions: Mapping[HourKey, int]) -> None:
        """Hours still at that revision are published: their removals go, and final ones are settled.

        Raises Fenced, with nothing changed, if the partition is no longer ours at that epoch.
        """

    async def sign_of_life(self) -> None:
        """For old readers: 202_cronjob_logs says that the hours are current."""
