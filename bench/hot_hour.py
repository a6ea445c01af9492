"""A hot hour: one account, one hour, very many conversions. What does a fire cost when a few more come?"""

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import aiohttp
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient

from bench.backlog import Ends, produce
from bench.contestants import HOT_HOUR, Course
from bench.hours import MODELS, count_credits, count_snapshots, lay_models
from bench.measuring import Contestant, DidNotRun, Offsets, Runner, topic_ends, wait_for_offsets
from bench.traffic import Event
from stream.topics import CREDITS, SNAPSHOTS

USER = 1
CAMPAIGNS = 100
MORE = 100
HOUR = 3600
STEP = 'touchstream_step_seconds_sum{step="hours_sql"}'


@dataclass(frozen=True, slots=True)
class HotHour:
    """What it came to. Rows of a fire are those that it published, which are those that it wrote."""

    conversions: int
    credits: int  # rows in SQL, of all models
    snapshots: int
    seconds: float  # until all of it had been written and published
    more: int  # conversions that came then
    fires: int  # that they took
    fire_credits: int
    fire_snapshots: int
    fire_seconds: float  # in SQL, all of these fires together
    peak_mb: float


def traffic(conversions: int, *, first: int, hour: int) -> Iterator[Event]:
    """Two clicks and a conversion each, of a visitor of its own."""
    for conv_id in range(first, first + conversions):
        campaign = 1 + conv_id % CAMPAIGNS
        at = hour + conv_id % HOUR
        named = b'"user_id":%d,"campaign_id":%d,"visitor_id":"v%d"' % (USER, campaign, conv_id)
        for click_id, before in ((2 * conv_id - 1, 900), (2 * conv_id, 300)):
            line = b'{"click_id":%d,%b,"click_time":%d,"click_cpc":0.25,"ppc_network_id":%d,"landing_page_id":%d}' % (
                click_id, named, at - before, click_id % 50 + 1, click_id % 300 + 1,
            )  # fmt: skip
            yield Event(True, USER, campaign, line)  # noqa: FBT003 - a field of the tuple
        line = b'{"conv_id":%d,"click_id":%d,%b,"click_time":%d,"conv_time":%d,"click_payout":9.50}' % (
            conv_id, 2 * conv_id, named, at - 300, at,
        )  # fmt: skip
        yield Event(False, USER, campaign, line)  # noqa: FBT003 - a field of the tuple


class _Watch:
    """A worker and its topics, while it works."""

    def __init__(self, course: Course, contestant: Contestant, running: Runner, admin: AIOKafkaAdminClient) -> None:
        self._course = course
        self._contestant = contestant
        self._running = running
        self._admin = admin

    async def drained(self, ends: Ends) -> None:
        await wait_for_offsets(Offsets(self._admin, self._contestant.group, ends), sum(ends.values()), self._running)
        journeys = await topic_ends(self._course.kafka, self._contestant.journeys)
        group = self._contestant.hours_group
        await wait_for_offsets(Offsets(self._admin, group, journeys), sum(journeys.values()), self._running)

    async def published_to(self, name: str) -> Ends:
        return await topic_ends(self._course.kafka, self._contestant.env["TOUCHSTREAM_TOPIC_PREFIX"] + name)

    async def published_since(self, ends: Ends) -> int:
        """Records behind these ends of a topic; offsets alone would count the markers of transactions, too."""
        now = {tp.topic: await topic_ends(self._course.kafka, tp.topic) for tp in ends}
        consumer = AIOKafkaConsumer(bootstrap_servers=self._course.kafka, isolation_level="read_committed")
        await consumer.start()
        try:
            consumer.assign(list(ends))
            for tp, end in ends.items():
                consumer.seek(tp, end)
            records = 0
            while any([await consumer.position(tp) < now[tp.topic][tp] for tp in ends]):
                records += sum(map(len, (await consumer.getmany(timeout_ms=500)).values()))
            return records
        finally:
            await consumer.stop()

    async def numbers(self) -> Mapping[str, float]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{self._contestant.health}/metrics") as answer,
        ):
            lines = (await answer.text()).splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


def measure_hot_hour(course: Course, database_url: str, conversions: int) -> HotHour:
    """Raises DidNotRun, also if credits are missing."""
    contestant = course.with_hours(HOT_HOUR, database_url, prefix=f"{course.prefix}hot-")
    lay_models(database_url, [USER])
    found = asyncio.run(_measure(course, contestant, database_url, conversions))
    wanted = (conversions + MORE) * (2 * len(MODELS) - 1)
    if count_credits(database_url) != wanted:
        raise DidNotRun(f"the hot hour has {count_credits(database_url):,} credits instead of {wanted:,}")
    return found


async def _measure(course: Course, contestant: Contestant, database_url: str, conversions: int) -> HotHour:
    hour = int(time.time()) // HOUR * HOUR - HOUR
    prefix = contestant.env["TOUCHSTREAM_TOPIC_PREFIX"]
    topics = (f"{prefix}clicks", f"{prefix}conversions")
    ends = await produce(course.kafka, topics, course.partitions, traffic(conversions, first=1, hour=hour))
    admin = AIOKafkaAdminClient(bootstrap_servers=course.kafka)
    await admin.start()
    try:
        async with Runner(contestant) as running:
            await running.begun()
            watch, began = _Watch(course, contestant, running, admin), time.monotonic()
            await watch.drained(ends)
            seconds = time.monotonic() - began
            stored = count_credits(database_url), count_snapshots(database_url)
            before = await watch.numbers()
            ends_before = {name: await watch.published_to(name) for name in (SNAPSHOTS, CREDITS)}
            more = await produce(
                course.kafka, topics, course.partitions, traffic(MORE, first=conversions + 1, hour=hour)
            )
            await watch.drained({tp: ends.get(tp, 0) + more.get(tp, 0) for tp in {*ends, *more}})
            after = await watch.numbers()
            snapshots, credits = [await watch.published_since(ends_before[name]) for name in (SNAPSHOTS, CREDITS)]
            peak_mb = running.peak_mb()
            await running.stop()
    finally:
        await admin.close()
    fired, wrote = "touchstream_hours_fired_total", "touchstream_credits_written_total"
    written = round(after[wrote] - before[wrote])
    if credits != written:
        raise DidNotRun(f"the fires wrote {written:,} credits and published {credits:,}")
    return HotHour(
        conversions=conversions,
        credits=stored[0],
        snapshots=stored[1],
        seconds=seconds,
        more=MORE,
        fires=round(after[fired] - before[fired]),
        fire_credits=credits,
        fire_snapshots=snapshots,
        fire_seconds=after[STEP] - before[STEP],
        peak_mb=peak_mb,
    )
