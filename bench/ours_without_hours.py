"""Our worker with hours that are never computed: what peers do, which have none. It shows what the hours cost."""

import mode.loop

mode.loop.use("uvloop")

from collections.abc import Mapping  # noqa: E402

from stream.config import read_settings  # noqa: E402
from stream.core.errors import RefusedByDatabase  # noqa: E402
from stream.engine.barrier import ChunkHandler, Stored, Taken  # noqa: E402
from stream.engine.chunk import Chunk  # noqa: E402
from stream.worker import Worker  # noqa: E402


class NoHours:
    """Every record of the journeys topic is passed over."""

    async def take(self, partition: int, committed: Mapping[str, int | None]) -> Taken:
        return Taken(1)

    async def store(self, chunk: Chunk, *, is_repeated: bool) -> Stored:
        return Stored()

    async def delete_cached(self, stored: Stored) -> None: ...

    async def note_sent(self, stored: Stored) -> None: ...

    def refused(self, chunk: Chunk, error: RefusedByDatabase) -> Chunk:
        raise error


class WorkerWithoutHours(Worker):
    """The product's worker in everything else."""

    def _hours_handler(self) -> ChunkHandler:
        return NoHours()


if __name__ == "__main__":
    WorkerWithoutHours(read_settings()).run()
