"""Records that come in at a steady pace, whatever breaks; the sender tries again until each is acknowledged."""

import asyncio
import time
from collections.abc import Sequence
from threading import Event, Thread

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.partitioner import murmur2

from tests.faults.installation import Installation
from tests.support.traffic import Sent

SLICE_SECONDS = 0.25
TRY_AGAIN_SECONDS = 0.5
REQUEST_TIMEOUT_MS = 5000


class Flow:
    """A slice that was not acknowledged is sent again whole: records may stand twice in the log, as in life."""

    def __init__(self, installation: Installation, rate: int) -> None:
        self._installation = installation
        self._slice = max(1, int(rate * SLICE_SECONDS))
        self._thread: Thread | None = None
        self._failure: BaseException | None = None
        self._ended = Event()
        self._gives_up = Event()
        self.total = 0
        self.unsent = 0

    def start(self, records: Sequence[Sent]) -> None:
        self._installation.sent += records
        self.total = self.unsent = len(records)
        self._thread = Thread(target=self._run, args=(records,), daemon=True)
        self._thread.start()

    def _run(self, records: Sequence[Sent]) -> None:
        try:
            asyncio.run(self._send_all(records))
        except BaseException as error:  # noqa: BLE001 - raised again in the run's own thread
            self._failure = error
        finally:
            self._ended.set()

    async def _send_all(self, records: Sequence[Sent]) -> None:
        began = time.monotonic()
        producer: AIOKafkaProducer | None = None
        for number, start in enumerate(range(0, len(records), self._slice)):
            piece = records[start : start + self._slice]
            await asyncio.sleep(max(0.0, began + number * SLICE_SECONDS - time.monotonic()))
            while not self._gives_up.is_set():
                try:
                    producer = producer or await self._connected()
                    await asyncio.gather(*[await self._send(producer, record) for record in piece])
                    break
                except KafkaError:
                    await self._leave(producer)
                    producer = None
                    await asyncio.sleep(TRY_AGAIN_SECONDS)
            self.unsent -= len(piece)
        await self._leave(producer)

    async def _connected(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            bootstrap_servers=self._installation.kafka, linger_ms=5, request_timeout_ms=REQUEST_TIMEOUT_MS, acks="all"
        )
        try:
            await producer.start()
        except BaseException:
            await producer.stop()
            raise
        return producer

    async def _send(self, producer: AIOKafkaProducer, record: Sent) -> "asyncio.Future[object]":
        to = self._installation
        partition = (murmur2(record.key) & 0x7FFFFFFF) % to.partitions if record.key is not None else 0
        found: asyncio.Future[object] = await producer.send(to.topic(record.topic), record.value, record.key, partition)
        return found

    @staticmethod
    async def _leave(producer: AIOKafkaProducer | None) -> None:
        if producer is None:
            return
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_MS / 1000):
                await producer.stop()
        except (KafkaError, TimeoutError):
            pass  # what was not acknowledged is sent again

    def wait_sent(self, *, seconds: float = 300) -> None:
        assert self._ended.wait(seconds), f"{self.unsent} records could not be sent in {seconds} s"
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Leave the rest unsent."""
        self._gives_up.set()
        if self._thread is not None:
            self._thread.join(30)
