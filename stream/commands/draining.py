"""Is all that is in the log in the database, and in its hours? What keeps it from being so, and waiting for it."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from stream.commands.hours_standing import FullStanding, HoursStanding, reading_full_standing
from stream.commands.progress import refusal_of
from stream.commands.standing import STABLE, PartitionStanding, Standing
from stream.config import Settings
from stream.core.errors import StreamError, Unavailable

POLL_S = 0.25
RETRY_S = 0.5
LAST_LOOK_S = 4.0  # a look that began in time may end this much later
NEWS_S = 10.0
_MOVED = "more has come into the topics meanwhile"


class NotDrained(StreamError):
    """Something in the log is not in the database, or nobody is there to process it."""


@dataclass(slots=True)
class Waited:
    """What the last look gave; `missing` empty: drained."""

    standing: FullStanding | None
    missing: list[str]


def what_is_missing(settings: Settings, standing: Standing) -> list[str]:
    """A line for each thing that keeps the topics of one group from being drained.

    Offsets at the end of another log than the one that was read prove nothing: no worker would start on them.
    """
    group = standing.group
    missing = []
    if not group.members:
        missing.append("no worker has joined the group")
    elif group.state != STABLE:
        missing.append(f"the group is not settled: {group.state}, members: {group.members}")
    missing += [line for each in standing.partitions if (line := _missing_of(each))]
    return missing + [str(refusal) for each in standing.partitions if (refusal := refusal_of(settings, standing, each))]


def _missing_of(each: PartitionStanding) -> str:
    parts = [_behind(name, each) for name in each.places if each.places[name].lag]
    if each.has_records and not each.member:
        parts.append("no owner")
    elif parts:
        parts.append(f"owner {each.owner}" if each.owner else "no owner")
    return f"partition {each.partition}: {', '.join(parts)}" if parts else ""


def _behind(name: str, each: PartitionStanding) -> str:
    place = each.places[name]
    where = "" if place.unstored else " (in the database, not committed to Kafka)"
    return f"{name} {place.lag:,} behind{where}"


def what_is_missing_of_hours(settings: Settings, hours: HoursStanding) -> list[str]:
    """Likewise, with hours that were changed by other hands than a worker's: it takes them up by itself."""
    missing = what_is_missing(settings, hours.log)
    if hours.work.unpublished:
        missing.append(f"not yet published: {hours.work.unpublished:,}")
    if hours.work.outdated:
        missing.append(f"computed with other models or settings than those of now: {hours.work.outdated:,}")
    return [f"hours: {line}" for line in missing]


def all_that_is_missing(settings: Settings, standing: FullStanding) -> list[str]:
    return what_is_missing(settings, standing.sources) + what_is_missing_of_hours(settings, standing.hours)


def has_moved(before: Standing, after: Standing) -> bool:
    """Did anything come into the topics between two looks?"""
    return _ends(before) != _ends(after)


def _ends(standing: Standing) -> list[int]:
    return [place.end for each in standing.partitions for place in each.places.values()]


async def watch_until_drained(settings: Settings, seconds: float, say: Callable[[str], None]) -> Waited:
    """Look until nothing is missing or the time is over; a broker or database that is away is waited for."""
    deadline = asyncio.get_running_loop().time() + seconds
    waited = Waited(None, ["neither broker nor database has answered in time"])
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout_at(deadline + LAST_LOOK_S):
            while True:
                if await _watch(settings, deadline, waited, say):
                    break
                await asyncio.sleep(RETRY_S)
    return waited


async def _watch(settings: Settings, deadline: float, waited: Waited, say: Callable[[str], None]) -> bool:
    """False: something did not answer, connect once more. Keeps what it sees in `waited`."""
    now = asyncio.get_running_loop().time
    try:
        async with reading_full_standing(settings) as reader:
            news_at = now() + NEWS_S
            while True:
                standing = await reader.read()
                missing = all_that_is_missing(settings, standing)
                if not missing and has_moved(standing.sources, await reader.read_sources()):
                    missing = [_MOVED]
                waited.standing, waited.missing = standing, missing
                if not missing or now() >= deadline:
                    return True
                if now() >= news_at:
                    behind = standing.sources.lag + standing.hours.log.lag
                    say(f"{behind:,} records behind, {missing[0]}")
                    news_at = now() + NEWS_S
                await asyncio.sleep(min(POLL_S, max(0.0, deadline - now())))
    except Unavailable as error:
        waited.missing = [str(error)]
        return now() >= deadline
