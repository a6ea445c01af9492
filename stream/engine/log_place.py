"""Asks Kafka what a partition of the log looks like, for the checks before it is worked on."""

from collections.abc import Mapping
from typing import Any

from aiokafka.structs import TopicPartition

from stream.clock import unix_now
from stream.core.errors import Unavailable
from stream.engine.start import LogPlace
from stream.engine.topic_ids import read_topic_ids


async def read_log_place(
    thread: Any, topics: tuple[str, ...], partition: int, committed: Mapping[str, int | None]
) -> LogPlace:
    """`thread` is Faust's consumer thread, assigned to the partition. Raises KafkaError, Unavailable.

    Who slept past its session is told last of all, before it takes SQL's fence and stops the owner by that.
    """
    tps = {topic: TopicPartition(topic, partition) for topic in topics}
    consumer = thread._ensure_consumer()
    begins = await thread.call_thread(consumer.beginning_offsets, list(tps.values()))
    ends = await thread.call_thread(consumer.end_offsets, list(tps.values()))
    topic_ids = await thread.call_thread(read_topic_ids, consumer._client, list(topics))
    # Where records were removed, history is known from the first that is left; where none is left, from now on.
    removed = [tp for tp in tps.values() if begins[tp] > 0]
    first_left = await thread.call_thread(consumer.offsets_for_times, dict.fromkeys(removed, 0)) if removed else {}
    known_from = [each.timestamp // 1000 if each else int(unix_now()) for each in first_left.values()]
    if not await thread.call_thread(_is_member, consumer._coordinator):
        raise Unavailable("the group does not know this member any more: to be assigned anew")
    return LogPlace(
        partitions=len(consumer.partitions_for_topic(topics[0]) or ()),
        topic_ids=topic_ids,
        committed=committed,
        begins={topic: begins[tp] for topic, tp in tps.items()},
        ends={topic: ends[tp] for topic, tp in tps.items()},
        history_from=max(known_from, default=0),
    )


async def _is_member(coordinator: Any) -> bool:
    """Asked of the broker: a sleeper's own memory is stale. Also true while the group is about to be assigned anew."""
    return bool(await coordinator._do_heartbeat())
