"""The whole system in one process, from one seed: log, database, cache, clocks, workers, other hands, faults."""

import asyncio
from collections.abc import Callable, Coroutine, Set
from typing import Any

from stream.commands.resetting import epoch_record
from stream.core.errors import Fenced, StartRefused
from stream.core.keys import murmur2
from tests.simulation.audit import GROUPS, Audit, Wrong
from tests.simulation.case import NOW, Case, Fault, chance_of, events_of, faults_of, shape_of
from tests.simulation.hands import Replay, purge, rebuild
from tests.simulation.log import Broker
from tests.simulation.processes import Process, Steps
from tests.simulation.sql_storage import SqlStorage
from tests.simulation.states import pending_ids, wrong_state
from tests.simulation.storage import JOURNEYS, MemoryStorage, Storage
from tests.simulation.workers import CHANGELOG, CLICKS, Cache, System, Worker, new_groups, topic_counts
from tests.support.oracle_events import Record, Unusable, read_click, read_conversion

LONGEST_SETTLING = 300.0
QUIET_SECONDS = 30.0  # an idle partition has a chunk every 20 seconds, and hears then what it was told
_MOST_SKEW = 90


class World:
    """One run of a case. `strike` makes a fault happen; `tests.simulation.faults` has it."""

    def __init__(self, case: Case, strike: "Callable[[World, Fault], None]") -> None:
        self.case = case
        self.shape = shape_of(case.seed)
        self.chance = chance_of(case.seed, "world")
        self.step = Steps(self.chance)
        self._strike = strike
        self._loop = asyncio.get_running_loop()
        broker = Broker(topic_counts(self.shape), lambda: int((NOW + self._loop.time()) * 1000))
        broker.groups = new_groups(self.shape)
        self.storage = self._new_storage()
        self.system = System(self.shape, self.step, broker, self.storage, Cache(), self.chance, self._wrong)
        self.audit = Audit(self.storage, broker, watches_states=not self.shape.is_rekeyed)
        broker.after_append = self.audit.appended
        self.storage.on_commit = self.audit.committed
        self.storage.on_hours = self.audit.fired
        for name, group in broker.groups.items():
            group.before_commit = lambda partition, offsets, name=name: self.audit.offsets_committed(  # type: ignore[misc]
                name, partition, offsets
            )
        self.workers: list[Worker] = []
        self.hands: list[asyncio.Task[Any]] = []
        self.hand_processes: list[Process] = []
        self.wanted_workers = self.shape.workers
        self.is_closed = False  # for maintenance: nobody is started
        self.is_restored = False
        self.is_purged = False
        self.is_settling = False
        self.failure: BaseException | None = None
        self._started = 0
        self.sleepers: set[str] = set()
        self.struck = self.step.struck
        self.events = 0

    def _new_storage(self) -> Storage:
        users = range(1, self.shape.users + 1)
        if self.shape.is_sql:
            return SqlStorage(self.step, users, partitions=self.shape.partitions, clock=self.now)
        since = NOW - 40 * 86_400
        return MemoryStorage(self.step, users, self.chance, partitions=self.shape.partitions, since=since)

    def loop_time(self) -> float:
        """Seconds since the beginning."""
        return self._loop.time()

    def now(self) -> int:
        return NOW + int(self._loop.time())

    def _wrong(self, text: str) -> None:
        self.audit.say(text)

    # Processes

    def new_process(self, kind: str) -> Process:
        self._started += 1
        skew = self.chance.choice((0, 0, -_MOST_SKEW, _MOST_SKEW, 7))
        process = Process(f"{kind}-{self._started}", skew)
        process.on_death.append(lambda: self.storage.cut_off(process.name))
        process.on_sleep = lambda: self.sleepers.add(process.name)
        return process

    def start_worker(self) -> None:
        process = self.new_process("worker")
        worker = Worker(self.system, process, lambda error: self._failed(process, error))
        self.workers.append(worker)
        process.on_death.append(lambda: self.workers.remove(worker))
        worker.on_open = self._check_state
        worker.start()

    def _check_state(self, worker: Worker, partition: int) -> None:
        """What was recovered, without what changes meanwhile beside the owner: of that it hears with its next chunk."""
        row = self.storage.progress(JOURNEYS).get(partition)
        if row is None or row.owner != worker.process.name or row.unsettled_keys or self._is_anyone_busy():
            return
        broker = self.system.broker
        done = broker.groups[JOURNEYS].committed.get((CLICKS, partition), 0)
        pending = pending_ids(record for record in broker.topics[CLICKS][partition].records if record.offset >= done)
        self.audit.check_state(
            wrong_state(worker.state_table.kept.partitions.get(partition, {}), self.storage.clicks(), pending)
        )

    def start_hand(self, kind: str, work: "Callable[[Process], Coroutine[Any, Any, None]]") -> Process:
        """A command. What it fails with fails the run."""
        process = self.new_process(kind)

        async def guarded() -> None:
            try:
                await work(process)
            except Exception as error:  # noqa: BLE001
                self._failed(process, error)

        task = process.spawn(guarded())
        self.hands.append(task)
        self.hand_processes.append(process)
        task.add_done_callback(lambda _: self.hand_processes.remove(process))
        process.on_death.append(lambda: self.hands.remove(task) if task in self.hands else None)
        return process

    def _failed(self, process: Process, error: BaseException) -> None:
        """As `exit_now`. A sleeper may be fenced, after a restore a start may be refused; anything else is wrong."""
        if process.is_dead or self.step.is_over:
            return
        process.die()
        if isinstance(error, Fenced) and (process.was_asleep or self._is_owned_by_a_sleeper()):
            self.struck["fenced"] += 1
        elif isinstance(error, StartRefused) and self.is_restored:
            self.struck["refused"] += 1
            self._reset()
        elif self.failure is None:
            self.failure = error

    def _is_owned_by_a_sleeper(self) -> bool:
        """Who fell asleep between the proof of its membership and SQL's row or a sender's id takes it when it wakes.

        The owner is fenced, exits and is started again: a pause, and no row is wrong.
        """
        owners = {row.owner for group in GROUPS for row in self.storage.progress(group).values()}
        senders = {getattr(sender, "owner", "") for sender in self.system.broker.senders.values()}
        return not self.sleepers.isdisjoint(owners | senders)

    def kill_all(self) -> None:
        for worker in list(self.workers):
            worker.process.die()

    def kill_hands(self) -> None:
        for process in list(self.hand_processes):
            process.die()

    async def _supervise(self) -> None:
        """Whoever died is started again, after a while."""
        while True:
            await asyncio.sleep(self.chance.random() * 2)
            if not self.is_closed and len(self.workers) < self.wanted_workers:
                self.start_worker()

    def _reset(self) -> None:
        """As `progress reset --to-log-start`."""
        self.kill_all()
        broker = self.system.broker
        for partition in broker.topics[CHANGELOG]:
            partition.records.clear()
        self.storage.reset()
        for number, row in self.storage.progress(JOURNEYS).items():
            broker.append(CHANGELOG, number, (*epoch_record(number, row.epoch), ()))
        for group in broker.groups.values():
            group.committed.clear()

    # What happens

    async def run(self) -> None:
        """Raises what is wrong."""
        for _ in range(self.wanted_workers):
            self.start_worker()
        supervisor = asyncio.ensure_future(self._supervise())
        try:
            await asyncio.gather(self._feed(), self._break())
            await self._finish()
        finally:
            supervisor.cancel()
            self.step.end()
            for task in asyncio.all_tasks():
                if task is not asyncio.current_task():
                    task.cancel()
            await asyncio.sleep(0)

    def check(self) -> None:
        if self.audit.wrong is not None:
            raise self.audit.wrong
        if self.failure is not None:
            raise self.failure

    async def _feed(self) -> None:
        events = events_of(self.case.seed)
        numbers = range(len(events)) if self.case.events is None else self.case.events
        chance = chance_of(self.case.seed, "places")
        places = [chance.randrange(self.shape.partitions) for _ in events]
        for at, sent in sorted((events[number][0], number) for number in numbers):
            await self._until(at)
            topic, value, key, _ = events[sent][1]
            partition = places[sent] if key is None else (murmur2(key) & 0x7FFFFFFF) % self.shape.partitions
            self.audit.produced(topic, partition, key, value)
            self.events += 1

    async def _break(self) -> None:
        faults = faults_of(self.case.seed)
        numbers = range(len(faults)) if self.case.faults is None else self.case.faults
        for fault in sorted(faults[number] for number in numbers):
            await self._until(fault.at)
            self._strike(self, fault)

    async def _until(self, at: float) -> None:
        await asyncio.sleep(max(0.0, at - self._loop.time()))
        self.check()

    async def _finish(self) -> None:
        self.heal()
        await self.settle()
        with_topics = not self.is_restored
        if self.is_purged:
            await self._check_purge(with_topics=with_topics)
        before = self.audit.compare(with_topics=with_topics, what="at the end")
        self._check_cache()
        if text := self.storage.unaudited():
            raise Wrong(f"I7: {text}")
        if self.case.seed % 3 == 0 or self.shape.is_sql:
            await self._replay_all()
            after = self.audit.compare(with_topics=with_topics, what="after a replay")
            if before != after:
                raise Wrong("I6: a replay changed rows")
        for worker in self.workers:
            for partition in worker.journeys.consumer.opened():
                self._check_state(worker, partition)
        self.start_hand("rebuild", lambda process: rebuild(self.system, process))
        await self.settle()
        self.audit.compare(with_topics=with_topics, what="after a rebuild")
        if self.case.seed % 5 == 1 and not self.shape.is_rekeyed:
            await self._delete_by_hand(with_topics=with_topics)
        self.check()

    async def _check_purge(self, *, with_topics: bool) -> None:
        """What is purged shows no touchpoints and earns as its converting click alone. A replay brings it back."""
        chance = chance_of(self.case.seed, "purge at the end")
        self.start_hand("purge", lambda process: purge(self.system, process, chance))
        await self.settle()
        self.struck["purge"] += 1
        if self.storage.journeys() and not self.storage.purged():
            raise Wrong("a purge has purged nothing")
        self.audit.compare(with_topics=with_topics, what="after a purge")
        await self._replay_all()
        if left := self.storage.purged():
            raise Wrong(f"I6: a replay left journeys purged: {sorted(left)}")

    async def _delete_by_hand(self, *, with_topics: bool) -> None:
        """Workers go on meanwhile, and may ask SQL while it lacks what they have passed. A replay brings it back.

        What is deleted is not reported again before that: a revision in between would be its first report.
        """
        clicks = {each.click_id for each in self.storage.clicks() if self.chance.random() < 0.3}
        conversions = {each.conv_id for each in self.storage.journeys() if self.chance.random() < 0.3}
        self.storage.delete(clicks, conversions)
        self.struck["deleted by hand"] += 1
        for record, place in list(zip(self.audit.records, self.audit.places, strict=True)):
            if self.chance.random() < 0.3 and not _is_about(record, clicks, conversions):
                self.audit.produced(*place[:2], None, record.value)
        await asyncio.sleep(self.chance.random() * 5)
        await self._replay_all()
        self.audit.compare(with_topics=with_topics, what="after rows were deleted by hand, and a replay")

    async def _replay_all(self) -> None:
        if self.shape.is_rekeyed:
            return
        replay = Replay(self.system, self.chance, is_whole=True)
        self.start_hand("replay", replay.run)
        await self.settle()

    def heal_slowness(self) -> None:
        self.step.slowness = 0.004

    def heal(self) -> None:
        """No more faults; who sleeps wakes."""
        self.is_settling = True
        self.step.database_away_until = self.step.broker_away_until = 0.0
        self.heal_slowness()
        self.is_closed = False
        self.system.cache.is_away = False
        for worker in self.workers:
            worker.process.blows.clear()
            worker.process.wake()

    async def settle(self) -> None:
        """Until all is read and nothing is due, for so long that everybody has been told everything."""
        deadline = self._loop.time() + LONGEST_SETTLING
        quiet_since: float | None = None
        while True:
            await asyncio.sleep(1.0)
            self.check()
            now = self._loop.time()
            behind = self._behind()
            if behind:
                quiet_since = None
            elif quiet_since is None:
                quiet_since = now
            elif now - quiet_since >= QUIET_SECONDS:
                return
            if now >= deadline:
                raise Wrong(f"does not settle: {behind}")

    def _is_anyone_busy(self) -> bool:
        return any(not hand.done() for hand in self.hands)

    def _behind(self) -> str:
        """What is still to be done."""
        broker = self.system.broker
        if self._is_anyone_busy():
            return "a command is at work"
        for name in GROUPS:
            for topic in broker.groups[name].topics:
                for partition in broker.topics[topic]:
                    done = broker.groups[name].committed.get((topic, partition.number), 0)
                    if done < partition.end:
                        return f"{topic} {partition.number} is read to {done} of {partition.end}"
        for key, row in self.storage.hour_rows().items():
            if row.published != row.revision or not (row.is_final or row.is_current):
                return f"hour {key} is due: {row}"
        return ""

    def _check_cache(self) -> None:
        cache = self.system.cache
        if cache.failures or self.is_restored:
            return
        shown = {each.conv_id: each.touches for each in self.storage.journeys()}
        for conv_id, entry in cache.entries.items():
            if shown.get(conv_id, ()) != entry:
                raise Wrong(f"the cache holds {entry} of conversion {conv_id}, SQL {shown.get(conv_id)}")


def _is_about(record: Record, clicks: Set[int], conversions: Set[int]) -> bool:
    try:
        if record.topic == CLICKS:
            return read_click(record.value, record.append_time).click_id in clicks
        return read_conversion(record.value, record.append_time).conv_id in conversions
    except Unusable:
        return False
