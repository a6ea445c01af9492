"""Who does something, and what may happen to it between any two of its steps: nothing, a pause, sleep, death, an error.

Every simulated port calls `step` before and after it does anything. The process that it belongs to is found in the
context of the running task, so that whatever the product spawns belongs to the process that spawned it.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from typing import Any

from aiokafka.errors import KafkaConnectionError, RequestTimedOutError

from stream.core.errors import Unavailable

_RUNNING: ContextVar["Process | None"] = ContextVar("process", default=None)


@dataclass(slots=True, eq=False)
class Process:
    """One process of the system. `skew` is how far its clock is ahead, in seconds."""

    name: str
    skew: int = 0
    is_dead: bool = False
    was_asleep: bool = False
    awake: asyncio.Event | None = None  # while it sleeps
    blows: list["Blow"] = field(default_factory=list)
    tasks: list["asyncio.Task[Any]"] = field(default_factory=list)
    on_sleep: Callable[[], None] = lambda: None
    on_death: list[Callable[[], None]] = field(default_factory=list)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """A task of this process; so is all that it spawns."""
        context = copy_context()
        context.run(_RUNNING.set, self)
        task = asyncio.get_running_loop().create_task(work, context=context)
        self.tasks.append(task)
        return task

    def die(self) -> None:
        """As kill -9: nothing of it runs any more, not even what would clean up."""
        if not self.is_dead:
            self.is_dead = True
            self.wake()
            for each in self.on_death:
                each()

    def sleep(self) -> None:
        if self.awake is None and not self.is_dead:
            self.awake = asyncio.Event()
            self.was_asleep = True
            self.on_sleep()

    def wake(self) -> None:
        if self.awake is not None:
            self.awake.set()
            self.awake = None


@dataclass(slots=True)
class Blow:
    """What strikes a process at one of its steps: the `after`-th from here on whose name begins with `where`.

    Only steps count at which `fits` holds.
    """

    kind: str
    after: int
    where: str
    strike: Callable[["Process"], float | None]
    fits: Callable[[], bool] = lambda: True


class Steps:
    """Chance and the clock between all steps of all processes."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._never = asyncio.Event()
        self.slowness = 0.004  # seconds a step takes on the average
        self.database_away_until = 0.0
        self.broker_away_until = 0.0
        self.counts: Counter[str] = Counter()
        self.struck: Counter[str] = Counter()
        self.is_over = False

    async def __call__(self, name: str) -> None:
        """`name` is place:what, such as "sql:commit"."""
        if self.is_over:
            raise asyncio.CancelledError
        self.counts[name] += 1
        process = _RUNNING.get()
        if process is not None and process.blows:
            await asyncio.sleep(self._struck_for(process, name))
        await self._rest(process)
        now = asyncio.get_running_loop().time()
        if name.startswith("sql") and now < self.database_away_until:
            raise Unavailable("the database is away")
        if name.startswith("log") and now < self.broker_away_until:
            raise self._chance.choice((KafkaConnectionError, RequestTimedOutError))("the broker is away")

    async def _rest(self, process: Process | None) -> None:
        delay = self._chance.random()
        await asyncio.sleep(0 if delay < 0.3 else delay * self.slowness)
        while process is not None and (process.is_dead or process.awake is not None):
            if process.is_dead:
                await self._never.wait()
            elif process.awake is not None:
                await process.awake.wait()

    def _struck_for(self, process: Process, name: str) -> float:
        """Seconds that the step alone is held up, while the process goes on."""
        seconds = 0.0
        for blow in [each for each in process.blows if name.startswith(each.where) and each.fits()]:
            blow.after -= 1
            if blow.after <= 0:
                process.blows.remove(blow)
                self.struck[blow.kind] += 1
                seconds += blow.strike(process) or 0.0
        return seconds

    def end(self) -> None:
        """Whoever waits for ever goes on, and is cancelled."""
        self.is_over = True
        self._never.set()


def running() -> Process | None:
    return _RUNNING.get()
