"""The database in memory, with its rows in sight and failures on demand."""

import contextlib
from collections.abc import AsyncIterator

from stream.core.errors import StreamError
from stream.core.progress import PartitionProgress
from tests.support.memory_facts import MemoryFacts
from tests.support.memory_store import MemoryDatabase, MemoryStore, MemoryTransaction


class WatchedStore(MemoryStore):
    """One worker's view; `as_other` is another worker on the same rows."""

    def __init__(self, owner: str, database: MemoryDatabase | None = None) -> None:
        self.database = database or MemoryDatabase()
        self.owner = owner
        self.failures: list[StreamError] = []  # raised instead of a commit, one each
        super().__init__(self.database, owner)

    def as_other(self, owner: str) -> "WatchedStore":
        return WatchedStore(owner, self.database)

    @property
    def facts(self) -> MemoryFacts:
        return self.database.facts

    @property
    def rows(self) -> dict[int, PartitionProgress]:
        return self.database.progress

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[MemoryTransaction]:
        async with super().transaction() as transaction:
            yield transaction
            if self.failures:
                raise self.failures.pop(0)
