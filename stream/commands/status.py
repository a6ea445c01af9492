"""`status`: lag, watermark and dead letters, and with --wait-drained the end of all work."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass

import click

from stream.commands.progress import refusal_of
from stream.commands.showing import add_row, listing, show, utc
from stream.commands.standing import SOURCES, STABLE, PartitionStanding, Standing, read_standing, reading_standing
from stream.config import Settings, read_settings
from stream.core.errors import StreamError, Unavailable

POLL_S = 0.25
RETRY_S = 0.5
LAST_LOOK_S = 4.0  # a look that began in time may end this much later
NEWS_S = 10.0
LONGEST_WAIT_S = 366 * 86_400


class NotDrained(StreamError):
    """Something in the log is not in the database, or nobody is there to process it."""


@dataclass(slots=True)
class Waited:
    """What the last look gave; `missing` empty: drained."""

    standing: Standing | None
    missing: list[str]


def what_is_missing(settings: Settings, standing: Standing) -> list[str]:
    """A line for each thing that keeps the log from being drained.

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
        async with reading_standing(settings) as reader:
            news_at = now() + NEWS_S
            while True:
                waited.standing = await reader.read()
                waited.missing = what_is_missing(settings, waited.standing)
                if not waited.missing or now() >= deadline:
                    return True
                if now() >= news_at:
                    say(f"{waited.standing.lag:,} records behind, {waited.missing[0]}")
                    news_at = now() + NEWS_S
                await asyncio.sleep(min(POLL_S, max(0.0, deadline - now())))
    except Unavailable as error:
        waited.missing = [str(error)]
        return now() >= deadline


def as_json(settings: Settings, standing: Standing | None, missing: list[str]) -> dict[str, object]:
    """The keys that --help promises. The hours of the windows get a key of their own beside `journeys`."""
    if standing is None:
        return {"app_id": settings.app_id, "drained": False, "missing": missing}
    return {
        "app_id": settings.app_id,
        "drained": not missing,
        "missing": missing,
        "group": {"state": standing.group.state, "members": standing.group.members},
        "journeys": {
            "lag": standing.lag,
            "watermark": standing.watermark,
            "watermark_utc": utc(standing.watermark),
            "partitions": [_partition_json(each) for each in standing.partitions],
        },
        "dead_letters": dict(standing.dead_letters),
    }


def _partition_json(each: PartitionStanding) -> dict[str, object]:
    return {
        "partition": each.partition,
        "owner": each.owner or None,
        "epoch": each.row.epoch if each.row else None,
        "lag": each.lag,
        "watermark": each.watermark,
        "watermark_utc": utc(each.watermark),
        "topics": {
            name: {
                "begin": place.begin,
                "end": place.end,
                "committed": place.committed,
                "stored": place.stored,
                "lag": place.lag,
            }
            for name, place in each.places.items()
        },
    }


def show_standing(settings: Settings, standing: Standing) -> None:
    group = standing.group
    lags = [f"{name} lag" for name in SOURCES]
    rows = listing("partition", *lags, "watermark", "epoch", "owner", numbers=["partition", *lags, "epoch"])
    for each in standing.partitions:
        counts = [f"{each.places[name].lag:,}" if name in each.places else "no topic" for name in SOURCES]
        epoch = str(each.row.epoch) if each.row else "none"
        add_row(rows, str(each.partition), *counts, utc(each.watermark) or "none", epoch, each.owner or "none")
    totals = [
        f"{sum(each.places[name].lag for each in standing.partitions if name in each.places):,}" for name in SOURCES
    ]
    add_row(rows, "all", *totals, utc(standing.watermark) or "none", "", f"members: {group.members}", style="bold")
    click.echo(f'group "{settings.app_id}": {group.state or "unknown to Kafka"}')
    show(rows)
    letters = ", ".join(f"{count:,} of {name}" for name, count in standing.dead_letters.items())
    hint = '; "python -m stream dead-letters list" shows them' if any(standing.dead_letters.values()) else ""
    click.echo(f"dead letters: {letters}{hint}")


@click.command(name="status")
@click.option("--json", "is_json", is_flag=True, help="One JSON object, see above.")
@click.option(
    "--wait-drained",
    type=click.IntRange(0, LONGEST_WAIT_S),
    metavar="SECONDS",
    help="Wait until all that is in the log is in the database; exit 1 if not in time, with what is missing on STDERR.",
)
def command(is_json: bool, wait_drained: int | None) -> None:
    """Show lag, watermark and dead letters; wait until all is written.

    Lag counts the offsets from what the group has committed, or what the database has stored if that is less, up to
    the end of the log. The watermark is the greatest event time of a partition, and in all the least of these.
    Waiting takes in that a worker has joined, that the group has settled, and that each partition with records has an
    owner. It ends at most 10 seconds late.

    \b
    JSON: app_id, drained, missing (texts), group {state, members},
      journeys {lag, watermark, watermark_utc, partitions [{partition, owner, epoch, lag, watermark, watermark_utc,
        topics {clicks, conversions: {begin, end, committed, stored, lag}}}]},
      dead_letters {clicks, conversions}
    Times are unix seconds, with _utc ISO 8601; null is none. If neither broker nor database answered in time, only
    the first three are there.
    """
    settings = read_settings()
    if wait_drained is None:
        standing = asyncio.run(read_standing(settings))
        waited = Waited(standing, what_is_missing(settings, standing))
    else:
        waited = asyncio.run(_waiting(settings, wait_drained, is_silent=is_json))
    if is_json:
        click.echo(json.dumps(as_json(settings, waited.standing, waited.missing)))
    elif waited.standing is not None:
        show_standing(settings, waited.standing)
    if wait_drained is None:
        return
    if waited.missing:
        for line in waited.missing:
            click.echo(line, err=True)
        raise NotDrained(f"not drained within {wait_drained} s", hint=_hint(waited.standing))
    if not is_json:
        click.echo("drained: all that is in the log is in the database")


async def _waiting(settings: Settings, seconds: int, *, is_silent: bool) -> Waited:
    return await watch_until_drained(settings, seconds, (lambda _: None) if is_silent else click.echo)


def _hint(standing: Standing | None) -> str:
    if standing is not None and not standing.group.members:
        return 'start one: "python -m stream worker"; if it ends at once, its last line says why'
    return "/readyz of the workers says what they wait for"
