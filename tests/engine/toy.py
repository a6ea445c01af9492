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
from aiokafka.structs import OffsetAndMetadata, TopicPartition

mode.loop.use("uvloop")

from faust.worker import Worker  # noqa: E402

from stream.core.errors import RefusedByDatabase  # noqa: E402
from stream.engine.app import ChunkApp, EngineSettings  # noqa: E402
from stream.engine.barrier import Step, Stored, Taken, exit_now  # noqa: E402
from stream.engine.changelog import KeptStates  # noqa: E402
from stream.engine.chunk import Arrival, Chunk, SourceRecord  # noqa: E402
from stream.engine.committing import OffsetCommits  # noqa: E402
from stream.engine.consumer import Intake  # noqa: E402
from stream.engine.hosting import Beside, Engine  # noqa: E402
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
    state_name: str = "counts"  # "": the engine keeps none
    gather_seconds: float = 0.0
    tick_seconds: float = 0.0
    answer_seconds: float = 0.0  # how late the consumer thread takes up a commit of offsets

    @property
    def notes(self) -> Path:
        return Path(self.folder) / "notes.jsonl"

    @property
    def figures(self) -> Path:
        return Path(self.folder) / "figures.json"

    @property
    def crash(self) -> Path:
        """Once it is there, the app comes down."""
        return Path(self.folder) / "crash"

    @property
    def changelog(self) -> str:
        return f"{self.app_id}-counts-changelog"


class Toy:
    """Handler and observer in one: a count by key, and one output a chunk."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._notes = config.notes.open("a", buffering=1)
        settings = EngineSettings(
            app_id=config.app_id,
            brokers=(config.kafka,),
            credentials=None,
            data_dir=Path(config.folder) / "data",
            partitions=config.partitions,
            state_keys=config.state_keys,
            state_name=config.state_name,
            intake=Intake(
                config.topics,
                _read,
                config.chunk_records,
                is_aligned=True,
                gather_seconds=config.gather_seconds,
                tick_seconds=config.tick_seconds,
            ),
        )
        engine = Engine("counting", settings, self, observer=self, fail=exit_now, before_start=self._before_start)
        self.app: ChunkApp = engine.app
        if config.answer_seconds:
            self._delay_commits()
        self.app.task(self._publish_figures)

    def _delay_commits(self) -> None:
        send = OffsetCommits._send

        async def send_late(commits: OffsetCommits, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> bool:
            self._note("committing", -1)
            thread: Any = self.app.chunk_consumer._thread
            await thread.call_thread(asyncio.sleep, self._config.answer_seconds)
            return await send(commits, offsets)

        OffsetCommits._send = send_late  # type: ignore[assignment, method-assign]

    async def _before_start(self) -> None:
        return

    async def _publish_figures(self) -> None:
        while not self.app.should_stop:
            if self._config.crash.exists():
                raise RuntimeError("the test says so")
            self._write_figures()
            await asyncio.sleep(_FIGURES_EVERY_SECONDS)

    def _write_figures(self) -> None:
        consumer, kept = self.app.chunk_consumer, self._kept()
        recovery: Any = self.app.tables.recovery  # type: ignore[attr-defined]
        figures = {
            "open": consumer.opened(),
            "counts": dict(consumer.counts),
            "messages": dict(self.app.monitor.messages_received_by_topic),
            "recovered": kept.recovered if kept is not None else 0,
            "recovery_seconds": (recovery._recovery_ended_at or 0) - (recovery._recovery_started_at or 0),
            "keys": len(kept) if kept is not None else 0,
        }
        fresh = self._config.figures.with_suffix(".new")
        fresh.write_text(json.dumps(figures))
        fresh.replace(self._config.figures)

    # What the barrier calls

    async def take(self, partition: int, committed: Mapping[str, int | None]) -> Taken:
        kept = self._kept()
        values = kept.partitions.get(partition, {}) if kept is not None else {}
        states = {key.decode(): _count(value) for key, value in values.items()}
        # Large states are only counted: a note is one line.
        self._note("taken", partition, committed=dict(committed), states=states if len(states) < 1000 else len(states))
        epochs = Path(self._config.folder) / f"epoch-{partition}"
        epoch = 1 + (int(epochs.read_text()) if epochs.exists() else 0)
        epochs.write_text(str(epoch))
        return Taken(epoch)

    async def store(self, chunk: Chunk, *, is_repeated: bool) -> Stored:
        kept = self._kept()
        counts: dict[bytes, int] = {}
        for arrival in chunk.arrivals:
            key = arrival.record.key
            assert key is not None
            before = kept.get_state(chunk.partition, key) if kept is not None else None
            counts[key] = counts.get(key, _count(before)) + 1
        values = [(arrival.record.value or b"").decode() for arrival in chunk.arrivals]
        self._note("stored", chunk.partition, values=values, ends=dict(chunk.next_offsets), is_last=chunk.is_last)
        output = OutgoingRecord(self._config.output, chunk.partition, None, b"%d" % len(chunk.arrivals), ())
        return Stored([output], {key: b"%d" % count for key, count in counts.items()}, receipt=len(values))

    async def delete_cached(self, stored: Stored) -> None:
        return

    async def note_sent(self, stored: Stored) -> None:
        self._note("sent", -1, records=stored.receipt)

    def refused(self, chunk: Chunk, error: RefusedByDatabase) -> Chunk:
        raise AssertionError(error)

    def step_done(self, step: Step, chunk: Chunk, seconds: float) -> None:
        self._note("step", chunk.partition, step=step, ends=dict(chunk.next_offsets))

    def waiting(self, reason: str) -> None:
        return

    def _note(self, what: str, partition: int, **more: object) -> None:
        self._notes.write(json.dumps({"what": what, "partition": partition, **more}) + "\n")

    def _kept(self) -> KeptStates | None:
        return self.app.state_table.kept if self._config.state_name else None


def run(first: Toy, *others: Toy) -> None:
    """All in this process."""
    beside = [Beside(toy.app) for toy in others]
    Worker(
        first.app, *beside, loglevel="INFO", redirect_stdouts=False, daemon=True, quiet=True
    ).execute_from_commandline()


def _read(record: SourceRecord) -> Arrival:
    return Arrival(record, record.timestamp, None)


def _count(value: bytes | None) -> int:
    return int(value) if value else 0


if __name__ == "__main__":
    configs = json.loads(Path(sys.argv[1]).read_text())
    run(*[Toy(Config(**each | {"topics": tuple(each["topics"])})) for each in configs])
