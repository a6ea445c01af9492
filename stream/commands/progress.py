"""`progress show` and `progress reset`: where each partition stands, and the way out of a refused start."""

import asyncio
import json
from collections.abc import Iterator

import click

from stream.commands.resetting import check_reset, reset_to_log_start
from stream.commands.showing import add_row, listing, show, utc
from stream.commands.standing import PartitionStanding, Place, Standing, hours_reading, read_standing
from stream.config import Settings, read_settings
from stream.core.errors import StartRefused
from stream.core.progress import PartitionProgress
from stream.engine.start import LogPlace, start_refusal
from stream.topics import hours_group_id

_CONFIRM = (
    "Every event is read again from the log's start, which takes its time;"
    " facts and journeys in the database stay. Go on?"
)


def refusal_of(settings: Settings, standing: Standing, each: PartitionStanding) -> StartRefused | None:
    """What a worker that took over the partition now would say."""
    if set(each.places) != set(standing.sources):
        return None  # no worker would be given it
    row = each.row or PartitionProgress(each.partition, 0, "", {}, 0, {}, 0, 0, 0, ())
    places = {settings.topic_prefix + name: place for name, place in each.places.items()}
    log = LogPlace(
        partitions=sum(standing.sources[0] in other.places for other in standing.partitions),
        topic_ids={settings.topic_prefix + name: topic_id for name, topic_id in standing.topic_ids.items()},
        committed={topic: place.committed for topic, place in places.items()},
        begins={topic: place.begin for topic, place in places.items()},
        ends={topic: place.end for topic, place in places.items()},
    )
    return start_refusal(row, log)


def as_json(settings: Settings, standing: Standing, hours: Standing) -> dict[str, object]:
    return {
        "app_id": settings.app_id,
        **_standing_json(settings, standing),
        "hours": {"group_id": hours_group_id(settings.app_id), **_standing_json(settings, hours)},
    }


def _standing_json(settings: Settings, standing: Standing) -> dict[str, object]:
    return {
        "group": {"state": standing.group.state, "members": standing.group.members},
        "partitions": [_partition_json(settings, standing, each) for each in standing.partitions],
    }


def _partition_json(settings: Settings, standing: Standing, each: PartitionStanding) -> dict[str, object]:
    row, refusal = each.row, refusal_of(settings, standing, each)
    return {
        "partition": each.partition,
        "epoch": row.epoch if row else None,
        "last_owner": row.owner or None if row else None,
        "is_owned": bool(each.member),
        "partition_count": row.partition_count if row else None,
        "watermark": each.watermark,
        "watermark_utc": utc(each.watermark),
        "topics": {
            name: {
                "begin": place.begin,
                "end": place.end,
                "committed": place.committed,
                "stored": place.stored,
                "topic_id": standing.topic_ids[name],
                "stored_topic_id": (row.topic_ids.get(settings.topic_prefix + name) if row else None) or None,
            }
            for name, place in each.places.items()
        },
        "refusal": {"reason": str(refusal), "hint": refusal.hint} if refusal else None,
    }


def show_progress(standing: Standing) -> None:
    numbers = ["partition", "epoch", "log start", "log end", "Kafka", "database"]
    rows = listing("partition", "epoch", "owner", "topic", *numbers[2:], numbers=numbers)
    for each in standing.partitions:
        first = (str(each.partition), str(each.row.epoch) if each.row else "none", _owner(each))
        if not each.places:
            add_row(rows, *first, "none in Kafka", "", "", "", "")
        for name, place in each.places.items():
            add_row(rows, *first, name, *_offsets(place))
            first = ("", "", "")
    show(rows)


def _owner(each: PartitionStanding) -> str:
    if each.member:
        return each.owner
    return f"none, last {each.row.owner}" if each.row and each.row.owner else "none"


def _offsets(place: Place) -> Iterator[str]:
    for offset in (place.begin, place.end, place.committed, place.stored):
        yield "none" if offset is None else f"{offset:,}"


@click.group(name="progress")
def command() -> None:
    """Show offsets, epochs and owners; reset a refused start."""


@command.command(name="show")
@click.option("--json", "is_json", is_flag=True, help="One JSON object.")
def show_command(is_json: bool) -> None:
    """Each partition as the log, Kafka's group and the database have it, and which start would be refused.

    \b
    JSON: app_id, group {state, members}, partitions [{partition, epoch, last_owner, is_owned, partition_count,
      watermark, watermark_utc, topics {clicks, conversions: {begin, end, committed, stored, topic_id,
      stored_topic_id}}, refusal {reason, hint}}], hours {group_id, group, partitions: of the topic journeys}
    """
    settings = read_settings()
    standing, hours = asyncio.run(_read_both(settings))
    if is_json:
        click.echo(json.dumps(as_json(settings, standing, hours)))
        return
    refusals = []
    for group_id, each in ((settings.app_id, standing), (hours_group_id(settings.app_id), hours)):
        click.echo(f'group "{group_id}": {each.group.state or "unknown"}, members: {each.group.members}')
        show_progress(each)
        refusals += [refusal for place in each.partitions if (refusal := refusal_of(settings, each, place))]
    for refusal in refusals:
        click.echo(f"a start would be refused: {refusal}")
    click.echo(f"hint: {refusals[0].hint}" if refusals else "a start would not be refused")


async def _read_both(settings: Settings) -> tuple[Standing, Standing]:
    return await read_standing(settings), await read_standing(settings, hours_reading(settings))


@command.command()
@click.option(
    "--to-log-start", is_flag=True, required=True, expose_value=False, help="The only place there is to go to."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
def reset(yes: bool) -> None:
    """Let the next worker read everything again. No worker may be alive.

    Removes the committed offsets of both groups and the changelog's state, raises the epochs, and lets the next worker
    take over the ids and the partition count of its topics. What stands in the database stays, and is the same
    afterwards. All hours are published once more; records of rows that the database does not have come to an end. Where
    records were removed before they were stored, journeys that may need them are flagged as incomplete from then on.
    """
    settings = read_settings()
    asyncio.run(check_reset(settings, click.echo))
    if not yes:
        click.confirm(_CONFIRM, abort=True)
    asyncio.run(reset_to_log_start(settings))
    groups = f'groups "{settings.app_id}" and "{hours_group_id(settings.app_id)}"'
    click.echo(f"{groups} begin at the log's start: start the workers")
