"""Who may send for a partition? Where the last record of a key counts, its owner alone.

On a compacted topic a worker that slept past its session could put old records behind those of its successor, for good.
So an engine of such outputs sends them in Kafka transactions, whose id is the partition's: the broker refuses everybody
but the producer that took the id last.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from aiokafka import AIOKafkaProducer
from aiokafka.errors import InvalidProducerEpoch, KafkaTimeoutError, ProducerFenced

from stream.core.errors import Fenced
from stream.engine.outbox import Outbox
from stream.wire.outgoing import OutgoingRecord

_ANSWER_SECONDS = 30.0
_CLOSE_SECONDS = 5.0


class Sending(Protocol):
    """The outputs of an engine on their way."""

    async def take_over(self, partition: int) -> None:
        """From here on nobody who had the partition before can send for it."""

    async def send(self, partition: int, records: Iterable[OutgoingRecord]) -> None:
        """Returns once all are acknowledged; may be repeated. Raises KafkaError, or Fenced if another took over."""

    async def close(self) -> None: ...


class OpenSending:
    """Of an engine whose outputs may come twice and late."""

    def __init__(self, outbox: Callable[[], Outbox]) -> None:
        self._outbox = outbox

    async def take_over(self, partition: int) -> None:
        return

    async def send(self, partition: int, records: Iterable[OutgoingRecord]) -> None:
        await self._outbox().send(records)

    async def close(self) -> None:
        return


class FencedSending:
    """A producer for each partition. Only `take_over` makes one: whoever tries again is still who he was."""

    def __init__(self, name: str, producer_options: Mapping[str, object]) -> None:
        self._name = name
        self._options = producer_options
        self._producers: dict[int, AIOKafkaProducer] = {}
        self._under_way: dict[int, asyncio.Task[None]] = {}

    async def take_over(self, partition: int) -> None:
        await self._close(partition)
        producer = AIOKafkaProducer(**self._options, transactional_id=f"{self._name}-{partition}")
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await producer.start()  # returns when the broker has shut out the one before
        except BaseException as error:
            await _stop(producer)
            if isinstance(error, TimeoutError):
                raise KafkaTimeoutError(f"no producer for partition {partition}") from error
            raise
        self._producers[partition] = producer

    async def send(self, partition: int, records: Iterable[OutgoingRecord]) -> None:
        before = self._under_way.get(partition)
        if before is not None:  # it had no answer in time; whatever came of it is sent again
            await self._done(partition, before)
            if isinstance(fenced := before.exception(), Fenced):
                raise fenced
        transaction = asyncio.ensure_future(_transact(self._producers[partition], records))
        await self._done(partition, transaction)
        transaction.result()

    async def close(self) -> None:
        for partition in list(self._producers):
            await self._close(partition)

    async def _done(self, partition: int, transaction: "asyncio.Task[None]") -> None:
        """Cancelling one half-way would leave its producer in a state that nobody knows: it goes on by itself."""
        done, _ = await asyncio.wait({transaction}, timeout=_ANSWER_SECONDS)
        if not done:
            self._under_way[partition] = transaction
            raise KafkaTimeoutError(f"no answer to the transaction of partition {partition}")
        self._under_way.pop(partition, None)

    async def _close(self, partition: int) -> None:
        before = self._under_way.pop(partition, None)
        if before is not None:
            before.cancel()
        producer = self._producers.pop(partition, None)
        if producer is not None:
            await _stop(producer)


async def _transact(producer: AIOKafkaProducer, records: Iterable[OutgoingRecord]) -> None:
    try:
        await producer.begin_transaction()
        try:
            await Outbox(producer).send(records)
        except BaseException:
            with contextlib.suppress(AssertionError):  # after a fatal error there is nothing to abort
                await producer.abort_transaction()
            raise
        await producer.commit_transaction()
    except (ProducerFenced, InvalidProducerEpoch) as error:
        raise Fenced("another worker sends for this partition now") from error


async def _stop(producer: Any) -> None:
    """It would wait for records that nobody needs any more."""
    with contextlib.suppress(Exception):
        async with asyncio.timeout(_CLOSE_SECONDS):
            await producer.stop()
