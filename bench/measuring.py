"""One contestant's run: from its first record until the group has committed the last one, seen from outside."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.errors import KafkaError

from bench.backlog import Ends
from bench.peers.job import FIRST

POLL_SECONDS = 0.05
START_LIMIT_SECONDS = 90
STOP_LIMIT_SECONDS = 30
SLOWEST_EVENTS_A_SECOND = 1000
LOG_LINES = 30

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


class DidNotRun(Exception):
    """A contestant failed; the message holds the end of its log."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """A program and what it takes to run it."""

    name: str  # for --peers and JSON
    label: str  # for people
    command: Sequence[str]
    group: str
    folder: Path  # of its own; its log is beside it
    env: Mapping[str, str]
    most_events: int = 0  # measured until so many are committed; 0: all
    health: str = ""  # host:port of a worker of ours; the others tell their first record
    hours_group: str = ""  # of ours with hours, which end when this group has read all of `journeys` too
    journeys: str = ""  # topic


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a contestant came to."""

    name: str
    label: str
    events: int
    wall_seconds: float
    cpu_seconds: float
    peak_mb: float
    credits: int = 0  # rows, of a run with hours

    @property
    def credits_a_second(self) -> float:
        return self.credits / self.wall_seconds

    @property
    def events_a_second(self) -> float:
        return self.events / self.wall_seconds

    @property
    def events_a_cpu_second(self) -> float:
        return self.events / self.cpu_seconds


@dataclass(frozen=True, slots=True)
class _Moment:
    """When, and how much CPU was used until then."""

    at: float
    cpu: float


class Runner:
    """A contestant's process; at the end it is gone, whatever happens."""

    def __init__(self, contestant: Contestant) -> None:
        self.contestant = contestant
        contestant.folder.mkdir(parents=True)
        self.log = contestant.folder.with_suffix(".log")
        self._told = contestant.folder.with_suffix(".out")
        with self.log.open("wb") as log, self._told.open("wb") as told:
            self._process = subprocess.Popen(
                contestant.command,
                env=dict(contestant.env),
                cwd=contestant.folder,
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=log,
            )

    async def __aenter__(self) -> "Runner":
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def check_runs(self) -> None:
        code = self._process.poll()
        if code is not None:
            raise DidNotRun(f"{self.contestant.label} ended with {code}:\n{self.log_tail()}")

    def log_tail(self) -> str:
        text = self.log.read_text(errors="replace") + self._told.read_text(errors="replace")
        return "\n".join(text.splitlines()[-LOG_LINES:])

    def now(self) -> _Moment:
        return _Moment(time.monotonic(), self._cpu_seconds())

    def _cpu_seconds(self) -> float:
        """User and system time of all its threads."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND

    def peak_mb(self) -> float:
        return peak_mb(self._process.pid)

    async def begun(self) -> None:
        """Of ours: until it has its partitions, which is before its first record."""
        deadline = time.monotonic() + START_LIMIT_SECONDS
        async with aiohttp.ClientSession() as session:
            while time.monotonic() < deadline:
                self.check_runs()
                with suppress(aiohttp.ClientError):
                    async with session.get(f"http://{self.contestant.health}/readyz") as answer:
                        if (await answer.json())["assigned"]:
                            return
                await asyncio.sleep(0.01)
        raise DidNotRun(f"{self.contestant.label} took no partition:\n{self.log_tail()}")

    def told_first(self) -> _Moment:
        for line in self._told.read_text(errors="replace").splitlines():
            if line.startswith(FIRST):
                return _Moment(*map(float, line.split()[1:]))
        raise DidNotRun(f"{self.contestant.label} never told its first record:\n{self.log_tail()}")

    async def stop(self) -> int:
        """SIGTERM, and the exit code; SIGKILL where that does not help."""
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            return await asyncio.to_thread(self._process.wait, STOP_LIMIT_SECONDS)
        self._process.kill()
        return self._process.wait()


class Offsets:
    """What a consumer group has committed, read while it works."""

    def __init__(self, admin: AIOKafkaAdminClient, group: str, ends: Ends) -> None:
        self._admin = admin
        self._group = group
        self._ends = ends

    async def committed(self) -> int:
        """Records, of all partitions."""
        try:
            found = await self._admin.list_consumer_group_offsets(self._group)
        except KafkaError:
            return 0  # the group is not there yet, or moves
        return sum(max(0, found[tp].offset) for tp in self._ends if tp in found)


async def measure(kafka: str, contestant: Contestant, ends: Ends) -> Measurement:
    """Start it, watch it to its end, stop it. Raises DidNotRun."""
    total = sum(ends.values())
    wanted = min(contestant.most_events or total, total)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        if contestant.journeys:
            await _forget_records(admin, await topic_ends(kafka, contestant.journeys))
        async with Runner(contestant) as running:
            first: _Moment | None = None
            if contestant.health:
                await running.begun()
                first = running.now()
            events = await wait_for_offsets(Offsets(admin, contestant.group, ends), wanted, running)
            if contestant.hours_group:
                journeys = await topic_ends(kafka, contestant.journeys)
                await wait_for_offsets(
                    Offsets(admin, contestant.hours_group, journeys), sum(journeys.values()), running
                )
            last, peak_mb = running.now(), running.peak_mb()
            first = first or running.told_first()
            code = await running.stop()
            if contestant.health and code != 0:
                raise DidNotRun(f"{contestant.label} exited {code} at SIGTERM:\n{running.log_tail()}")
    finally:
        await admin.close()
    return Measurement(
        contestant.name, contestant.label, events, last.at - first.at, max(last.cpu - first.cpu, 0.01), peak_mb
    )


async def topic_ends(kafka: str, topic: str) -> Ends:
    """Of all its partitions."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=kafka)
    await consumer.start()
    try:
        partitions = consumer.partitions_for_topic(topic)
        assert partitions, f"no topic {topic}"
        found: Ends = await consumer.end_offsets([TopicPartition(topic, each) for each in partitions])
    finally:
        await consumer.stop()
    return found


async def _forget_records(admin: AIOKafkaAdminClient, ends: Ends) -> None:
    """Journeys that other contestants wrote are none of this one's."""
    if any(ends.values()):
        await admin.delete_records({tp: RecordsToDelete(end) for tp, end in ends.items()})


async def wait_for_offsets(offsets: Offsets, wanted: int, running: Runner) -> int:
    """Until the group has committed so many. Raises DidNotRun."""
    deadline = time.monotonic() + START_LIMIT_SECONDS + wanted / SLOWEST_EVENTS_A_SECOND
    while time.monotonic() < deadline:
        events = await offsets.committed()
        if events >= wanted:
            return events
        running.check_runs()
        await asyncio.sleep(POLL_SECONDS)
    label = running.contestant.label
    raise DidNotRun(f"{label} committed {events:,} of {wanted:,} in time:\n{running.log_tail()}")


def peak_mb(pid: int) -> float:
    """The most memory that a living process has had in RAM. Raises OSError once it is gone."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def python_module(name: str, *arguments: str, python: str | Path = sys.executable) -> list[str]:
    return [str(python), "-m", name, *arguments]
