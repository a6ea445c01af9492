"""What an agent needs from outside, as Protocols: facts in SQL behind a fence, and records to send."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from stream.core.events import Click
from stream.core.facts import Facts, Journey, Needs
from stream.core.progress import Advance, PartitionProgress, Passed


class FactTransaction(Protocol):
    """One SQL transaction of one partition. Reads see what it wrote."""

    async def pass_fence(self, advance: Advance, *, after_failure: bool) -> Passed:
        """First of all. Raises Fenced if owner or epoch are not ours.

        Tells, after a failure, what the last committed chunk left unsettled: it may have been this very one. And
        always what another hand has left unsettled, if facts were changed beside the owner.
        """

    async def claim_clicks(self, clicks: Sequence[Click]) -> Mapping[int, Click]:
        """Insert those whose id is new; return, locked, the stored rows of the others by id. Ids are distinct."""

    async def replace_clicks(self, clicks: Sequence[Click]) -> None:
        """Overwrite stored rows."""

    async def read(self, needs: Needs) -> Facts: ...

    async def write_journeys(
        self, journeys: Sequence[Journey], *, displaced: Collection[int] = (), new: Collection[int] = ()
    ) -> None:
        """Upsert by conv_id, replace touchpoints and conversion logs; `displaced` conversions lose their log rows.

        `new` ones had no journey when they were read: none may have come since for another user, campaign or click.
        Repeating it changes nothing. Raises Unavailable where another partition was in the way.
        """

    async def settle(self, partition: int, unsettled_keys: Sequence[str]) -> None:
        """Store what the next owner must forget or do again, should the changelog and the outputs lack this chunk."""


class Ownership(Protocol):
    """Who may write for a partition."""

    async def take_over(
        self, partition: int, *, owner: str, topic_ids: Mapping[str, str], partition_count: int, history_from: int
    ) -> PartitionProgress:
        """Raise the epoch and become the owner; returns the row as it was before, but with the new epoch.

        `history_from`, for a partition that nobody ever had: its log holds no records from before, unix seconds.
        """


class FactStore(Ownership, Protocol):
    """The database. Raises Unavailable (try again), RefusedByDatabase (data) or Fenced."""

    def transaction(self) -> AbstractAsyncContextManager[FactTransaction]:
        """Commits when left without an exception, rolls back otherwise."""

    async def read(self, needs: Needs) -> Facts:
        """Committed facts, outside any transaction of ours."""

    async def progress(self) -> Sequence[PartitionProgress]: ...
