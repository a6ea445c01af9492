"""What a replay needs from the database beyond what an agent does: partitions that it does not own."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from stream.agents.ports import FactTransaction
from stream.core.facts import Facts, Journey, Needs
from stream.core.progress import PartitionProgress


class ReplayTransaction(FactTransaction, Protocol):
    """One SQL transaction. `lock_partition` comes first, in place of the fence."""

    async def lock_partition(self, partition: int) -> PartitionProgress:
        """Its row, held until the end: writers of a partition follow one another. Made if there is none."""

    async def note_outside_change(self, changed: PartitionProgress) -> None:
        """The owner forgets what it remembers of the keys in `unsettled_keys`."""

    async def ill_shown(self, journeys: Sequence[Journey]) -> Collection[int]:
        """Conversions whose rows in the tables of Prosper202 are not those of their journey, by whatever hand."""

    async def note_place(self, partition: int, place: Mapping[str, object]) -> None:
        """How far the run has come, of use only together with what this transaction writes."""


class ReplayStore(Protocol):
    """The database. Raises Unavailable (try again) or RefusedByDatabase (data)."""

    def transaction(self) -> AbstractAsyncContextManager[ReplayTransaction]: ...

    async def read(self, needs: Needs) -> Facts:
        """Committed facts, outside any transaction of ours."""
