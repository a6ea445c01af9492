"""The simulated cluster with replays beside its workers: broken off between commit and sending, and gone on with."""

from collections.abc import Sequence

from stream.agents.outputs import TopicNames
from stream.agents.reading import EventReader
from stream.core.errors import Unavailable
from stream.core.keys import partition_of
from stream.engine.alignment import PartitionIntake
from stream.engine.chunk import Chunk
from stream.replay.computing import Named, compute_batch
from stream.replay.storing import Scope, store_chunk
from tests.simulation.world import LOOKBACK, TOPICS, World
from tests.support.memory_store import MemoryStore

Offsets = dict[str, int]


class SimulatedReplay:
    """One run over all partitions, to where their logs end now: facts first, then the stored conversions."""

    def __init__(self, world: "ReplayWorld", *, is_whole: bool) -> None:
        chance, count = world.chance, len(world.partitions)
        self._world = world
        self._scope = Scope(TopicNames("clicks", "conversions", "journeys", count, 1), LOOKBACK)
        self._store = MemoryStore(world.database, "a replay")
        self._ends = [{topic: len(log.records[topic]) for topic in TOPICS} for log in world.partitions]
        self._offsets: list[Offsets] = [
            {topic: 0 if is_whole else chance.randrange(end + 1) for topic, end in ends.items()} for ends in self._ends
        ]
        self._stored_to: list[Offsets] = [dict.fromkeys(TOPICS, 0) for _ in self._ends]
        self._computed: set[int] = set()
        self.is_done = False

    async def step(self, *, may_fail: bool = True) -> None:
        """A chunk or a batch; perhaps its records are not sent, and it comes again."""
        unread = [number for number, offsets in enumerate(self._offsets) if offsets != self._ends[number]]
        try:
            if unread:
                await self._store_chunk(self._world.chance.choice(unread), may_fail=may_fail)
            else:
                await self._compute_batch(may_fail=may_fail)
        except Unavailable:  # a lost reply, or the swap of a winner: the workers go on first
            for number in range(len(self._ends)):
                await self._world.work(number)

    def _is_broken_off(self, *, may_fail: bool) -> bool:
        return may_fail and self._world.chance.random() < 0.2

    async def _store_chunk(self, number: int, *, may_fail: bool) -> None:
        chunk, offsets = self._next_chunk(number), self._offsets[number]
        is_repeated = any(offsets[topic] < self._stored_to[number][topic] for topic in TOPICS)
        self._stored_to[number] = {
            topic: max(self._stored_to[number][topic], chunk.next_offsets[topic]) for topic in TOPICS
        }
        report = await store_chunk(self._store, self._scope, chunk, is_repeated=is_repeated, place={})
        if not self._is_broken_off(may_fail=may_fail):
            self._world.deliver(report.records)
            self._offsets[number] = dict(chunk.next_offsets)

    def _next_chunk(self, number: int) -> Chunk:
        chance, offsets = self._world.chance, self._offsets[number]
        read = EventReader(clicks="clicks", conversions="conversions", partitions=len(self._ends))
        intake = PartitionIntake(number, 0, offsets, is_aligned=True)
        for topic in TOPICS:
            end = self._ends[number][topic]
            intake.add(topic, map(read, self._world.partitions[number].records[topic][offsets[topic] : end]), end)
        intake.mark_ends(dict.fromkeys(TOPICS, True))
        chunk = intake.next_chunk(chance.choice((1, 10, 50)), now=0.0)
        assert chunk is not None
        return chunk

    async def _compute_batch(self, *, may_fail: bool) -> None:
        chance = self._world.chance
        left = self._left()
        if not left:
            self.is_done = True
            return
        number = chance.choice(list(left))
        batch = left[number][: chance.choice((1, 7, 40))]
        report = await compute_batch(self._store, self._scope, number, batch, place={})
        if not self._is_broken_off(may_fail=may_fail):
            self._world.deliver(report.records)
            self._computed.update(named.conv_id for named in batch)

    def _left(self) -> dict[int, Sequence[Named]]:
        """By partition, in the order of keys."""
        left: dict[int, list[Named]] = {}
        journeys = self._world.database.facts.journeys.values()
        for journey in sorted(journeys, key=lambda each: (each.key, each.conversion.conv_time)):
            conversion = journey.conversion
            if conversion.conv_id not in self._computed:
                number = partition_of(conversion.user_id, conversion.campaign_id, len(self._ends))
                left.setdefault(number, []).append(Named(conversion.conv_id, conversion.click_id))
        return dict(left)


class ReplayWorld(World):
    """Up to two replays run beside the workers while there are faults; those begun are brought to their ends."""

    replay_rate = 0.4
    replays: list[SimulatedReplay]

    def __init__(self, seed: int, partitions: int) -> None:
        super().__init__(seed, partitions)
        self.replays = []
        self.replayed = 0

    async def step(self, number: int, fault_rate: float) -> None:
        if fault_rate and self.chance.random() < self.replay_rate:
            if len(self.replays) < 2:
                self.replays.append(SimulatedReplay(self, is_whole=self.chance.random() < 0.5))
            replay = self.chance.choice(self.replays)
            await replay.step()
            if replay.is_done:
                self.replays.remove(replay)
            self.replayed += 1
        await super().step(number, fault_rate)

    async def work(self, number: int) -> None:
        await super().step(number, 0.0)

    async def drain(self) -> None:
        while any(self._is_behind(partition) for partition in self.partitions):
            for number in range(len(self.partitions)):
                await self.work(number)
        for number, member in self.members.items():  # time passes without records: whoever was told something hears it
            tick = Chunk(number, 1, [], self.partitions[number].committed)
            stored = await member.handler.store(tick, is_repeated=False)
            self.deliver(stored.outputs)
            member.write_changelog(stored.states)
        if any(self._is_behind(partition) for partition in self.partitions):
            await self.drain()

    async def finish_replays(self) -> None:
        for replay in self.replays:
            while not replay.is_done:
                await replay.step(may_fail=False)
        self.replays = []

    async def replay_all(self) -> None:
        self.replays.append(SimulatedReplay(self, is_whole=True))
        while not self.replays[-1].is_done:
            await self.replays[-1].step()
        await self.finish_replays()

    def delete_by_hand(self, share: float) -> tuple[set[int], set[int]]:
        """Ids of the clicks and conversions that are gone from SQL then."""
        facts = self.database.facts
        clicks = {number for number in facts.clicks if self.chance.random() < share}
        conversions = {number for number in facts.journeys if self.chance.random() < share}
        for number in clicks:
            del facts.clicks[number]
        for number in conversions:
            del facts.journeys[number]
            self.database.logs.pop(number, None)
        return clicks, conversions
