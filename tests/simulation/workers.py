"""A worker of the simulated system: both engines with the shipped handlers and readers, as `stream.worker` has it."""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from stream.agents.firing import HoursAtWork
from stream.agents.hour_outputs import ResultTopics
from stream.agents.hour_reading import JourneyMarkReader
from stream.agents.hours import HoursHandler, HoursSettings
from stream.agents.journeys import JourneysHandler, JourneysSettings
from stream.agents.outputs import TopicNames
from stream.agents.reading import EventReader
from stream.engine.consumer import Intake
from stream.engine.outbox import Outbox
from stream.engine.sending import FencedSending, OpenSending, Sending
from stream.engine.start import LogPlace
from stream.metrics import Metrics
from tests.simulation.case import LOOKBACK, NOW, Shape
from tests.simulation.clients import SimulatedProducer
from tests.simulation.engines import Engine, Parts, SimulatedTable
from tests.simulation.log import Broker, Group
from tests.simulation.processes import Process, Steps
from tests.simulation.storage import HOURS, JOURNEYS, Storage
from tests.support.hour_books import CREDITS, SNAPSHOTS

CLICKS, CONVERSIONS = "clicks", "conversions"
SOURCES = (CLICKS, CONVERSIONS)
CHANGELOG = "states"
LATENESS = 3600
METRICS = Metrics()


@dataclass(slots=True)
class Cache:
    """The memcached of the tracking servers: what a reader found of a conversion stays until it is deleted."""

    entries: dict[int, tuple[tuple[int, int], ...]] = field(default_factory=dict)
    is_away: bool = False
    failures: int = 0

    async def delete(self, conv_ids: Sequence[int]) -> int:
        if self.is_away:
            self.failures += len(conv_ids)
            return len(conv_ids)
        for conv_id in conv_ids:
            self.entries.pop(conv_id, None)
        return 0


@dataclass(frozen=True, slots=True)
class System:
    """What all processes share."""

    shape: Shape
    step: Steps
    broker: Broker
    storage: Storage
    cache: Cache
    chance: random.Random
    on_wrong: Callable[[str], None]

    @property
    def names(self) -> TopicNames:
        return TopicNames(CLICKS, CONVERSIONS, JOURNEYS, self.shape.partitions, self.shape.journeys_partitions)

    def clock_of(self, process: Process) -> Callable[[], int]:
        return lambda: NOW + process.skew + int(asyncio.get_running_loop().time())

    def reader(self) -> EventReader:
        return EventReader(clicks=CLICKS, conversions=CONVERSIONS, partitions=self.shape.partitions)


def topic_counts(shape: Shape) -> dict[str, int]:
    return {
        CLICKS: shape.partitions,
        CONVERSIONS: shape.partitions,
        CHANGELOG: shape.partitions,
        JOURNEYS: shape.journeys_partitions,
        f"{CLICKS}-dead-letters": 1,
        f"{CONVERSIONS}-dead-letters": 1,
        SNAPSHOTS: 1,
        CREDITS: 1,
    }


def new_groups(shape: Shape) -> dict[str, Group]:
    return {
        JOURNEYS: Group(SOURCES, shape.partitions),
        HOURS: Group((JOURNEYS,), shape.journeys_partitions),
    }


class Worker:
    """`fail` is called with what ends the process."""

    def __init__(self, system: System, process: Process, fail: Callable[[BaseException], None]) -> None:
        self.system = system
        self.process = process
        self.on_open: Callable[[Worker, int], None] = lambda _worker, _partition: None
        self.producer = SimulatedProducer(system.broker, system.step)
        outbox = Outbox(self.producer)
        self.state_table = SimulatedTable(CHANGELOG, system.shape.state_bound, outbox)
        self.journeys = self._engine(JOURNEYS, self._journeys_intake(), self.state_table, OpenSending(lambda: outbox))
        self.hours = self._engine(HOURS, self._hours_intake(), None, FencedSending("hours", {}))
        self.journeys.build(self._journeys_handler(), fail)
        self.hours.build(self._hours_handler(), fail)

    def _engine(self, name: str, intake: Intake, state_table: SimulatedTable | None, sending: Sending) -> Engine:
        system, chance = self.system, self.system.chance
        most, opened = partial(chance.choice, (1, 5, 50)), partial(self._opened, name)
        parts = Parts(name, system.broker.groups[name], intake, state_table, sending, most, opened, system.on_wrong)
        return Engine(system.broker, system.step, self.process, parts)

    def _journeys_intake(self) -> Intake:
        shape = self.system.shape
        return Intake(SOURCES, self.system.reader(), shape.chunk_records, shape.is_aligned, tick_seconds=20.0)

    def _hours_intake(self) -> Intake:
        shape = self.system.shape
        return Intake(
            (JOURNEYS,),
            JourneyMarkReader(),
            shape.chunk_records,
            is_aligned=False,
            gather_seconds=shape.fire_interval,
            tick_seconds=min(shape.fire_interval, 2.0),
        )

    def _journeys_handler(self) -> JourneysHandler:
        system = self.system
        return JourneysHandler(
            system.names,
            system.storage.facts(self.process),
            JourneysSettings(owner=self.process.name, lookback=LOOKBACK),
            states=lambda: self.state_table.kept,
            cache=system.cache,
            metrics=METRICS,
            log_place=partial(_log_place, self.journeys),
            clock=system.clock_of(self.process),
        )

    def _hours_handler(self) -> HoursHandler:
        system = self.system
        handler = HoursHandler(
            HoursSettings(
                owner=self.process.name,
                topics=ResultTopics(SNAPSHOTS, CREDITS, 1, 1),
                source_partitions=system.shape.partitions,
                partitions=system.shape.journeys_partitions,
                allowed_lateness=LATENESS,
                with_extra_scopes=True,
            ),
            system.storage.hours(self.process),
            metrics=METRICS,
            log_place=partial(_log_place, self.hours),
            clock=system.clock_of(self.process),
        )
        handler._at_work = HoursAtWork(system.chance.choice((1, 5, 1000)))
        return handler

    def _opened(self, name: str, partition: int) -> None:
        if name == JOURNEYS:
            self.on_open(self, partition)

    @property
    def engines(self) -> tuple[Engine, Engine]:
        return self.journeys, self.hours

    def start(self) -> None:
        for engine in self.engines:
            engine.start()

    async def stop(self) -> None:
        """As at SIGTERM."""
        await asyncio.gather(*(engine.leave() for engine in self.engines))


async def _log_place(engine: Engine, partition: int, committed: Mapping[str, int | None]) -> LogPlace:
    """The consumer is there only after the handler."""
    return await engine.consumer.log_place(partition, committed)
