"""A worker that counts events by key, on the real engine: `python -m tests.engine.toy CONFIG`, a JSON file.

It notes what it does as lines of JSON in `notes.jsonl` of its folder, and its figures in `figures.json`.
"""

import asyncio
import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mode.loop

mode.loop.use("uvloop")

from faust.types import StreamT  # noqa: E402
from faust.worker import Worker  # noqa: E402

from stream.core.errors import RefusedByDatabase  # noqa: E402
from stream.engine.app import ChunkApp, EngineSettings, build_app  # noqa: E402
from stream.engine.barrier import Barrier, Step, Stored, Taken, exit_now  # noqa: E402
from stream.engine.chunk import Arrival, Chunk, SourceRecord  # noqa: E402
from stream.engine.consumer import Intake  # noqa: E402
from stream.wire.outgoing import OutgoingRecord  # noqa: E402

_FIGURES_EVERY_SECONDS = 0.1


@dataclasses.dataclass(frozen=True)
class Config:
    kafka: str
    folder: str
    app_id: str
    topics: tuple[str, ...]
    output: str
    partitions: int
    chunk_records: int = 500
    state_keys: int = 1_000_000

    @property
    def notes(self) -> Path:
        return Path(self.folder) / "notes.jsonl"

    @property
    def figures(self) -> Path:
        return Path(self.folder) / "figures.json"

    @property
    def changelog(self) -> str:
        return f"{self.app_id}-counts-changelog"


class Toy:
    """Handler and observer in one: a count by key, and one output a chunk."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._notes = config.notes.open("a", buffering=1)
        self.app: ChunkApp = build_app(
            EngineSettings(
                app_id=config.app_id,
                brokers=(config.kafka,),
                credentials=None,
                data_dir=Path(config.folder) / "data",
                partitions=config.partitions,
                state_keys=config.state_keys,
                state_name="counts",
                intake=Intake(config.topics, _read, config.chunk_records, is_aligned=True),
            )
        )
        self.barrier = Barrier(
            self,
            consumer=lambda: self.app.chunk_consumer,
            state=self.app.state_table,
            outbox=lambda: self.app.outbox,
            observer=self,
            fail=exit_now,
        )
        self.app.on_positioned = self.barrier.take_partitions
        self.app.fail = exit_now
        self.app.before_start = self._before_start
        self.app.before_stop = self.barrier.stop
        self.app.agent(self.app.chunks(), name="counting")(self._agent)
        self.app.task(self._publish_figures)

    async def _before_start(self) -> None:
        return

    async def _agent(self, chunks: StreamT[Any]) -> None:
        without_acks: Any = chunks
        async for event in without_acks.noack().events():
            self.app.chunk_consumer.unacked.discard(event.message)
            self.barrier.begin(event.value)

    async def _publish_figures(self) -> None:
        while not self.app.should_stop:
            self._write_figures()
            await asyncio.sleep(_FIGURES_EVERY_SECONDS)

    def _write_figures(self) -> None:
        consumer, kept = self.app.chunk_consumer, self.app.state_table.kept
        recovery: Any = self.app.tables.recovery  # type: ignore[attr-defined]
        figures = {
            "open": consumer.opened(),
            "counts": dict(consumer.counts),
            "messages": dict(self.app.monitor.messages_received_by_topic),
            "recovered": kept.recovered,
            "recovery_seconds": (recovery._recovery_ended_at or 0) - (recovery._recovery_started_at or 0),
            "keys": len(kept),
        }
        fresh = self._config.figures.with_suffix(".new")
        fresh.write_text(json.dumps(figures))
        fresh.replace(self._config.figures)

    # What the barrier calls

    async def take(self, partition: int, committed: Mapping[str, int | None]) -> Taken:
        kept = self.app.state_table.kept
        states = {key.decode(): _count(value) for key, value in kept.partitions.get(partition, {}).items()}
        # Large states are only counted: a note is one line.
        self._note("taken", partition, committed=dict(committed), states=states if len(states) < 1000 else len(states))
        epochs = Path(self._config.folder) / f"epoch-{partition}"
        epoch = 1 + (int(epochs.read_text()) if epochs.exists() else 0)
        epochs.write_text(str(epoch))
        return Taken(epoch)

    async def store(self, chunk: Chunk, *, is_repeated: bool) -> Stored:
        get_state = self.app.state_table.kept.get_state
        counts: dict[bytes, int] = {}
        for arrival in chunk.arrivals:
            key = arrival.record.key
            assert key is not None
            counts[key] = counts.get(key, _count(get_state(chunk.partition, key))) + 1
        values = [(arrival.record.value or b"").decode() for arrival in chunk.arrivals]
        self._note("stored", chunk.partition, values=values, ends=dict(chunk.next_offsets))
        output = OutgoingRecord(self._config.output, chunk.partition, None, b"%d" % len(chunk.arrivals), ())
        return Stored([output], {key: b"%d" % count for key, count in counts.items()})

    async def delete_cached(self, stored: Stored) -> None:
        return

    def refused(self, chunk: Chunk, error: RefusedByDatabase) -> Chunk:
        raise AssertionError(error)

    def step_done(self, step: Step, chunk: Chunk, seconds: float) -> None:
        self._note("step", chunk.partition, step=step, ends=dict(chunk.next_offsets))

    def waiting(self, reason: str) -> None:
        return

    def _note(self, what: str, partition: int, **more: object) -> None:
        self._notes.write(json.dumps({"what": what, "partition": partition, **more}) + "\n")

    def run(self) -> None:
        Worker(self.app, loglevel="INFO", redirect_stdouts=False, daemon=True, quiet=True).execute_from_commandline()


def _read(record: SourceRecord) -> Arrival:
    return Arrival(record, record.timestamp, None)


def _count(value: bytes | None) -> int:
    return int(value) if value else 0


if __name__ == "__main__":
    settings = json.loads(Path(sys.argv[1]).read_text())
    Toy(Config(**settings | {"topics": tuple(settings["topics"])})).run()
