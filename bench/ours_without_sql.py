"""Our worker with a database that knows nothing and stores nothing: what is left is Kafka, the fold and the state.

It is not a way to run: what state cannot answer stays unknown. It shows what SQL costs, and is comparable to peers that
have none.
"""

# First of all: it chooses the event loop.
from bench.ours_without_hours import WorkerWithoutHours  # isort: skip

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext

from stream.agents.ports import FactStore
from stream.config import read_settings
from stream.core.events import Click
from stream.core.facts import Facts, Journey, Needs
from stream.core.progress import Advance, PartitionProgress, Passed
from tables.sql.ownership import first_progress


class NoTransaction:
    """Every click is new, nothing is found, nothing is kept."""

    async def pass_fence(self, advance: Advance, *, after_failure: bool) -> Passed:
        return Passed()

    async def claim_clicks(self, clicks: Sequence[Click]) -> Mapping[int, Click]:
        return {}

    async def replace_clicks(self, clicks: Sequence[Click]) -> None: ...

    async def read(self, needs: Needs) -> Facts:
        return Facts(histories=dict.fromkeys(needs.histories, ()))

    async def write_journeys(
        self, journeys: Sequence[Journey], *, displaced: Collection[int] = (), new: Collection[int] = ()
    ) -> None: ...

    async def settle(self, partition: int, unsettled_keys: Sequence[str]) -> None: ...


class NoStore:
    """A database for one worker that never dies."""

    def __init__(self) -> None:
        self._transaction = NoTransaction()

    def transaction(self) -> AbstractAsyncContextManager[NoTransaction]:
        return nullcontext(self._transaction)

    async def read(self, needs: Needs) -> Facts:
        return await self._transaction.read(needs)

    async def take_over(
        self, partition: int, *, owner: str, topic_ids: Mapping[str, str], partition_count: int, history_from: int
    ) -> PartitionProgress:
        return first_progress(
            partition, owner=owner, topic_ids=topic_ids, partition_count=partition_count, history_from=history_from
        )

    async def progress(self) -> Sequence[PartitionProgress]:
        return ()


class WorkerWithoutSql(WorkerWithoutHours):
    """The product's worker in everything else but the hours, which have nothing to read."""

    def _store(self) -> FactStore:
        return NoStore()


if __name__ == "__main__":
    WorkerWithoutSql(read_settings()).run()
