"""Offsets on their way to the group's coordinator, and what their acceptance proves."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata, TopicPartition

log = logging.getLogger(__name__)

_RETRY_SECONDS = 0.5
_PROOF_SECONDS = 3.0
_NO_GENERATION = -1


class OffsetCommits:
    """What chunks have committed under the present assignment. `thread` is Faust's consumer thread."""

    def __init__(self, thread: Any) -> None:
        self._thread = thread
        self.processed: dict[int, Mapping[str, int]] = {}  # next offsets by partition

    def forget(self) -> None:
        """A new assignment begins."""
        self.processed.clear()

    async def commit(self, partition: int, next_offsets: Mapping[str, int]) -> bool:
        """False if this member was expelled: the records will be delivered again, here or elsewhere.

        Where nothing has moved since the last time, as at a tick, nothing is sent.
        """
        if self.processed.get(partition) == next_offsets:
            return True
        is_accepted = await self._send(_offsets(partition, next_offsets))
        if is_accepted:
            self.processed[partition] = next_offsets
        return is_accepted

    async def prove_membership(self) -> bool:
        """A commit accepted for our generation. An expelled member may see a generation of -1, or pass vacuously."""
        offsets: dict[TopicPartition, OffsetAndMetadata] = {}
        for partition, next_offsets in self.processed.items():
            offsets |= _offsets(partition, next_offsets)
        try:
            is_accepted = not offsets or await asyncio.wait_for(self._send(offsets), _PROOF_SECONDS)
        except (KafkaError, TimeoutError):
            return False
        coordinator = self._thread._ensure_consumer()._coordinator
        return is_accepted and coordinator.generation != _NO_GENERATION

    async def _send(self, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> bool:
        consumer = self._thread._ensure_consumer()
        while True:
            try:
                await self._thread.call_thread(consumer.commit, dict(offsets))
            except (CommitFailedError, IllegalStateError):
                return False
            except KafkaError as error:
                if not error.retriable:
                    raise
                log.warning("commit of offsets failed, trying again: %r", error)
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return True


def _offsets(partition: int, next_offsets: Mapping[str, int]) -> dict[TopicPartition, OffsetAndMetadata]:
    return {TopicPartition(topic, partition): OffsetAndMetadata(offset, "") for topic, offset in next_offsets.items()}
