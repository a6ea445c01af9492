"""The toy worker as a process on a real broker: started, watched through what it notes, stopped."""

import asyncio
import copy
import dataclasses
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from tests.engine.toy import Config

ROOT = Path(__file__).resolve().parents[2]
PARTITIONS = 2
KEYS = [b"key-%d" % number for number in range(40)]


@asynccontextmanager
async def admin(kafka: str) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await client.start()
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def producer(config: Config, transactional_id: str | None = None) -> AsyncIterator[AIOKafkaProducer]:
    client = AIOKafkaProducer(bootstrap_servers=config.kafka, linger_ms=5, transactional_id=transactional_id)
    await client.start()
    try:
        yield client
    finally:
        await client.stop()


async def send(client: AIOKafkaProducer, topic: str, values: Sequence[str], partition: int | None = None) -> None:
    """Keys in turn; each record is acknowledged on return."""
    futures = [
        await client.send(topic, value=value.encode(), key=KEYS[index % len(KEYS)], partition=partition)
        for index, value in enumerate(values)
    ]
    await asyncio.gather(*futures)


async def committed(config: Config) -> dict[tuple[str, int], int | None]:
    client = AIOKafkaConsumer(bootstrap_servers=config.kafka, group_id=config.app_id, enable_auto_commit=False)
    await client.start()
    try:
        places = [TopicPartition(topic, partition) for topic in config.topics for partition in range(PARTITIONS)]
        return {(place.topic, place.partition): await client.committed(place) for place in places}
    finally:
        await client.stop()


async def ends(config: Config) -> dict[tuple[str, int], int]:
    client = AIOKafkaConsumer(bootstrap_servers=config.kafka)
    await client.start()
    try:
        places = [TopicPartition(topic, partition) for topic in config.topics for partition in range(PARTITIONS)]
        return {(place.topic, place.partition): end for place, end in (await client.end_offsets(places)).items()}
    finally:
        await client.stop()


class Run:
    """One life of the worker process; gone at the end of the `with`."""

    def __init__(self, config: Config, *beside: Config) -> None:
        """`beside`: engines of the same process; notes and figures are those of the first."""
        self.config = config
        config.figures.unlink(missing_ok=True)
        self._begins = len(notes(config))
        path = Path(config.folder) / "config.json"
        path.write_text(json.dumps([dataclasses.asdict(each) for each in (config, *beside)]))
        self.log = Path(config.folder) / "worker.log"
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "tests.engine.toy", str(path)]
            self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def seen_from(self, other: Config) -> "Run":
        """The same process, through the notes and figures of another of its engines."""
        seen = copy.copy(self)
        seen.config, seen._begins = other, 0
        return seen

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def notes(self, what: str) -> list[dict[str, Any]]:
        return [note for note in notes(self.config)[self._begins :] if note["what"] == what]

    def figures(self) -> dict[str, Any]:
        if not self.config.figures.exists():
            return {"open": [], "counts": {}}
        found: dict[str, Any] = json.loads(self.config.figures.read_text())
        return found

    async def open(self) -> "Run":
        await self.until(lambda: self.figures()["open"] == list(range(PARTITIONS)), "all partitions open")
        return self

    async def done(self, records: int) -> None:
        """All these records have passed the last step."""

        def is_done() -> bool:
            stored = sum(len(note["values"]) for note in self.notes("stored"))
            steps = Counter(note["step"] for note in self.notes("step"))
            return stored >= records and steps["offsets"] == len(self.notes("stored"))

        await self.until(is_done, f"{records} records")

    async def until(self, condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"exited {self.process.returncode}: {self.log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"waited for {what}: {self.figures()} {self.log.read_text()[-3000:]}"
            await asyncio.sleep(0.05)

    async def exit(self, seconds: float = 40) -> int:
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"runs on: {self.log.read_text()[-3000:]}"
            await asyncio.sleep(0.05)
        return int(self.process.returncode)

    async def stop(self) -> int:
        self.process.terminate()
        return await self.exit()


Start = Callable[..., Run]


def notes(config: Config) -> list[dict[str, Any]]:
    if not config.notes.exists():
        return []
    return [json.loads(line) for line in config.notes.read_text().splitlines() if line.endswith("}")]
