"""Other hands at a simulated system: replays, rebuilds, purges, changes of models. Each is a process that may die."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from stream.agents.outputs import journey_record
from stream.core.errors import Unavailable
from stream.core.hours import HourKey
from stream.core.keys import partition_of
from stream.engine.alignment import PartitionIntake
from stream.engine.barrier import patiently
from stream.engine.chunk import Chunk
from stream.engine.outbox import Outbox
from stream.replay.computing import Named, compute_batch
from stream.replay.storing import Scope, store_chunk
from stream.wire.outgoing import OutgoingRecord
from tests.simulation.case import LOOKBACK
from tests.simulation.clients import SimulatedProducer
from tests.simulation.processes import Process
from tests.simulation.workers import SOURCES, System

Offsets = dict[str, int]
_Result = TypeVar("_Result")


class Replay:
    """One run over all partitions, to where their logs end now: facts first, then the stored conversions.

    What it remembers outlives the process that works on it, as the run's row does: whoever comes next goes on there.
    """

    def __init__(self, system: System, chance: random.Random, *, is_whole: bool) -> None:
        self._system = system
        self._chance = chance
        self._scope = Scope(system.names, LOOKBACK)
        numbers = range(system.shape.partitions)
        topics = system.broker.topics
        self._ends = [{topic: topics[topic][number].end for topic in SOURCES} for number in numbers]
        self._offsets: list[Offsets] = [
            {topic: 0 if is_whole else chance.randrange(end + 1) for topic, end in ends.items()} for ends in self._ends
        ]
        self._stored_to: list[Offsets] = [dict.fromkeys(SOURCES, 0) for _ in numbers]
        self._begun: set[int] = set()
        self._computed: set[int] = set()

    async def run(self, process: Process) -> None:
        """As the command does it, patiently."""
        outbox = Outbox(SimulatedProducer(self._system.broker, self._system.step))
        for number in range(self._system.shape.partitions):
            while self._offsets[number] != self._ends[number]:
                await self._store_chunk(process, outbox, number)
        while left := self._left():
            number = self._chance.choice(sorted(left))
            await self._compute_batch(process, outbox, number, left[number])

    async def _store_chunk(self, process: Process, outbox: Outbox, number: int) -> None:
        store = self._system.storage.replays(process)
        chunk, offsets, stored_to = self._next_chunk(number), self._offsets[number], self._stored_to[number]
        begun = any(offsets[topic] < stored_to[topic] for topic in SOURCES)
        for topic in SOURCES:
            stored_to[topic] = max(stored_to[topic], chunk.next_offsets[topic])
        report = await _waiting(
            lambda tries: store_chunk(store, self._scope, chunk, is_repeated=begun or tries > 0, place={})
        )
        await self._system.cache.delete(report.conversions)
        await _sent(outbox, report.records)
        self._offsets[number] = dict(chunk.next_offsets)

    def _next_chunk(self, number: int) -> Chunk:
        offsets, read = self._offsets[number], self._system.reader()
        intake = PartitionIntake(number, 0, offsets, is_aligned=True)
        for topic in SOURCES:
            end = self._ends[number][topic]
            records = self._system.broker.topics[topic][number].records
            wanted = [record for record in records if offsets[topic] <= record.offset < end]
            intake.add(topic, map(read, wanted), end)
        intake.mark_ends(dict.fromkeys(SOURCES, True))
        chunk = intake.next_chunk(self._chance.choice((5, 20, 100)), now=0.0)
        assert chunk is not None
        return chunk

    async def _compute_batch(self, process: Process, outbox: Outbox, number: int, left: Sequence[Named]) -> None:
        store, batch = self._system.storage.replays(process), left[: self._chance.choice((3, 10, 40))]
        begun = any(named.conv_id in self._begun for named in batch)
        self._begun.update(named.conv_id for named in batch)
        report = await _waiting(
            lambda tries: compute_batch(store, self._scope, number, batch, is_repeated=begun or tries > 0, place={})
        )
        # What somebody has written before us, and may not have told, is not among what we had to write.
        await self._system.cache.delete([named.conv_id for named in batch])
        await _sent(outbox, report.records)
        self._computed.update(named.conv_id for named in batch)

    def _left(self) -> dict[int, list[Named]]:
        """By partition, in the order of keys."""
        left: dict[int, list[Named]] = {}
        journeys = self._system.storage.journeys()
        for each in sorted(journeys, key=lambda one: (one.user_id, one.campaign_id, one.visitor_id, one.conv_time)):
            if each.conv_id not in self._computed:
                number = partition_of(each.user_id, each.campaign_id, self._system.shape.partitions)
                left.setdefault(number, []).append(Named(each.conv_id, each.click_id))
        return left


async def rebuild(system: System, process: Process) -> None:
    """Of all hours that anything is known of."""
    keys = {HourKey(each.user_id, each.conv_time - each.conv_time % 3600) for each in system.storage.journeys()}
    for key in sorted(keys | set(system.storage.hour_rows())):
        await _waiting(lambda _, key=key: system.storage.rebuild(process, [key]))  # type: ignore[misc]


async def purge(system: System, process: Process, chance: random.Random) -> None:
    known = [each.conv_id for each in system.storage.journeys()]
    wanted = chance.sample(known, min(len(known), 5))
    outbox = Outbox(SimulatedProducer(system.broker, system.step))
    journeys = await _waiting(lambda _: system.storage.purge(process, wanted))
    await system.cache.delete(wanted)
    await _sent(outbox, [journey_record(system.names, journey) for journey in journeys])


async def change_models(system: System, process: Process, chance: random.Random) -> None:
    """A change whose reply was lost is not repeated: whoever made it would look first."""
    try:
        await system.storage.reconfigure(process, chance)
    except Unavailable:
        await asyncio.sleep(0)


async def _waiting(work: Callable[[int], Awaitable[_Result]]) -> _Result:
    result: _Result = await patiently(work, lambda _: None)
    return result


async def _sent(outbox: Outbox, records: Sequence[OutgoingRecord]) -> None:
    if records:
        await _waiting(lambda _: outbox.send(records))
