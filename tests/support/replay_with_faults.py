"""The product's replay, broken on purpose: `python -m tests.support.replay_with_faults OPTIONS`, with one worker.

TESTFAULT_REPLAY_EXIT_AT=STEP:N   the process ends when that has happened for the N-th time:
    chunk-stored, chunk-sent      a chunk with news is committed; its records are acknowledged
    batch-stored, batch-sent      the same of a batch of conversions
"""

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

from stream.__main__ import main
from stream.commands import replay_work
from stream.replay.computing import BatchReport, compute_batch
from stream.replay.storing import ChunkReport, store_chunk

EXIT_CODE = 137

_seen: Counter[str] = Counter()
_send = replay_work._Doing._send


def _happened(step: str) -> None:
    _seen[step] += 1
    if f"{step}:{_seen[step]}" == os.environ.get("TESTFAULT_REPLAY_EXIT_AT"):
        os._exit(EXIT_CODE)


async def _stored_chunk(*given: Any, **named: Any) -> ChunkReport:  # noqa: ANN401 - what the product gives
    report = await store_chunk(*given, **named)
    if report.records:
        _happened("chunk-stored")
    return report


async def _computed_batch(*given: Any, **named: Any) -> BatchReport:  # noqa: ANN401 - what the product gives
    report = await compute_batch(*given, **named)
    _happened("batch-stored")
    return report


async def _sent(doing: replay_work._Doing, records: Sequence[Any]) -> None:
    await _send(doing, records)
    if records:
        _happened("chunk-sent" if doing._job.is_facts else "batch-sent")


if __name__ == "__main__":
    for owner, name, broken in (
        (replay_work, "store_chunk", _stored_chunk),
        (replay_work, "compute_batch", _computed_batch),
        (replay_work._Doing, "_send", _sent),
    ):
        setattr(owner, name, broken)
    main()
