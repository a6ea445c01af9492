"""`status`: lag, watermark, hours and dead letters, and with --wait-drained the end of all work."""

import asyncio
import json

import click

from stream.commands.dead_letters import escaped
from stream.commands.draining import NotDrained, Waited, all_that_is_missing, watch_until_drained
from stream.commands.hours_standing import FullStanding, HoursStanding, HoursWork, read_full_standing
from stream.commands.showing import add_row, listing, show, utc
from stream.commands.standing import PartitionStanding, Standing
from stream.config import Settings, read_settings
from stream.topics import hours_group_id

LONGEST_WAIT_S = 366 * 86_400


def as_json(settings: Settings, standing: FullStanding | None, missing: list[str]) -> dict[str, object]:
    """The keys that --help promises."""
    if standing is None:
        return {"app_id": settings.app_id, "drained": False, "missing": missing}
    sources = standing.sources
    return {
        "app_id": settings.app_id,
        "drained": not missing,
        "missing": missing,
        "group": {"state": sources.group.state, "members": sources.group.members},
        "journeys": {
            "lag": sources.lag,
            "watermark": sources.watermark,
            "watermark_utc": utc(sources.watermark),
            "partitions": [_partition_json(each) for each in sources.partitions],
        },
        "hours": _hours_json(settings, standing.hours),
        "dead_letters": dict(sources.dead_letters),
    }


def _hours_json(settings: Settings, hours: HoursStanding) -> dict[str, object]:
    log, work = hours.log, hours.work
    return {
        "group_id": hours_group_id(settings.app_id),
        "group": {"state": log.group.state, "members": log.group.members},
        "lag": log.lag,
        "partitions": [_partition_json(each) for each in log.partitions],
        "unsettled": {"open": work.open, "unpublished": work.unpublished, "outdated": work.outdated},
        "oldest_due": work.oldest_due,
        "oldest_due_utc": utc(work.oldest_due),
        "broken_models": [each._asdict() for each in work.broken_models],
        "users_without_active_model": list(work.users_without_model),
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


def show_standing(settings: Settings, standing: FullStanding) -> None:
    _show_group(settings.app_id, standing.sources, with_watermark=True)
    _show_group(hours_group_id(settings.app_id), standing.hours.log, with_watermark=False)
    _show_hours(standing.hours.work)
    letters = ", ".join(f"{count:,} of {name}" for name, count in standing.sources.dead_letters.items())
    hint = '; "python -m stream dead-letters list" shows them' if any(standing.sources.dead_letters.values()) else ""
    click.echo(f"dead letters: {letters}{hint}")


def _show_group(group_id: str, standing: Standing, *, with_watermark: bool) -> None:
    group, sources = standing.group, standing.sources
    lags = [f"{name} lag" for name in sources]
    watermark = ["watermark"] if with_watermark else []
    rows = listing("partition", *lags, *watermark, "epoch", "owner", numbers=["partition", *lags, "epoch"])
    for each in standing.partitions:
        counts = [f"{each.places[name].lag:,}" if name in each.places else "no topic" for name in sources]
        moment = [utc(each.watermark) or "none"] if with_watermark else []
        epoch = str(each.row.epoch) if each.row else "none"
        add_row(rows, str(each.partition), *counts, *moment, epoch, each.owner or "none")
    totals = [
        f"{sum(each.places[name].lag for each in standing.partitions if name in each.places):,}" for name in sources
    ]
    moment = [utc(standing.watermark) or "none"] if with_watermark else []
    add_row(rows, "all", *totals, *moment, "", f"members: {group.members}", style="bold")
    click.echo(f'group "{group_id}": {group.state or "unknown to Kafka"}')
    show(rows)


def _show_hours(work: HoursWork) -> None:
    due = f"; the oldest that is due: {utc(work.oldest_due)}" if work.oldest_due is not None else ""
    outdated = f", computed with older models or settings: {work.outdated:,}" if work.outdated else ""
    click.echo(f"hours: open: {work.open:,}, not yet published: {work.unpublished:,}{outdated}{due}")
    for each in work.broken_models:
        name = f'"{escaped(each.slug)}" (model {each.model_id}) of user {each.user_id}'
        click.echo(f"{name} cannot be computed: {escaped(each.reason)}")
    if work.users_without_model:
        users = ", ".join(map(str, work.users_without_model))
        click.echo(f"no active model, so that nothing is attributed: user {users}")


@click.command(name="status")
@click.option("--json", "is_json", is_flag=True, help="One JSON object, see above.")
@click.option(
    "--wait-drained",
    type=click.IntRange(0, LONGEST_WAIT_S),
    metavar="SECONDS",
    help="Wait until all that is in the log is in the database; exit 1 if not in time, with what is missing on STDERR.",
)
def command(is_json: bool, wait_drained: int | None) -> None:
    """Show lag, watermark, hours and dead letters; wait until all is written.

    Lag counts the offsets from what the group has committed, or what the database has stored if that is less, up to
    the end of the log. The watermark is how far event time has come in a partition, and in all the least of these.
    Waiting takes in that a worker has joined, that both groups have settled, that each partition with records has an
    owner, and that all hours are published and fit the models and settings of now. It ends at most 10 seconds late.

    \b
    JSON: app_id, drained, missing (texts), group {state, members},
      journeys {lag, watermark, watermark_utc, partitions [{partition, owner, epoch, lag, watermark, watermark_utc,
        topics {clicks, conversions: {begin, end, committed, stored, lag}}}]},
      hours {group_id, group {state, members}, lag, partitions [likewise, topics {journeys}],
        unsettled {open, unpublished, outdated}, oldest_due, oldest_due_utc,
        broken_models [{user_id, model_id, slug, reason}], users_without_active_model [user_id]},
      dead_letters {clicks, conversions}
    Times are unix seconds, with _utc ISO 8601; null is none. With --wait-drained, where broker or database never
    answered in time, only the first three are there; without it that is an error.
    """
    settings = read_settings()
    if wait_drained is None:
        standing = asyncio.run(read_full_standing(settings))
        waited = Waited(standing, all_that_is_missing(settings, standing))
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


def _hint(standing: FullStanding | None) -> str:
    if standing is not None and not standing.sources.group.members:
        return 'start one: "python -m stream worker"; if it ends at once, its last line says why'
    return "/readyz of the workers says what they wait for"
