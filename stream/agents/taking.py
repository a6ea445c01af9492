"""May an agent work on a partition that it was given? Taking it over tells."""

from stream.agents.ports import Ownership
from stream.core.progress import PartitionProgress
from stream.engine.start import LogPlace, start_refusal


async def take_over(store: Ownership, partition: int, log: LogPlace, *, owner: str) -> PartitionProgress:
    """The row as it was, with the new epoch. Raises StartRefused, the epoch raised, where log and row do not fit."""
    row = await store.take_over(
        partition,
        owner=owner,
        topic_ids=log.topic_ids,
        partition_count=log.partitions,
        history_from=log.history_from,
    )
    refusal = start_refusal(row, log)
    if refusal is not None:
        raise refusal
    return row
