"""Checks of the work: who does it, how far it is, and whether its signs of life are fresh."""

from stream.commands.checkup import Check, Finding, Part, Surroundings, error, ok, warning
from stream.commands.hours_standing import read_hours_work
from stream.commands.progress import refusal_of
from stream.commands.showing import length, utc
from stream.commands.standing import STABLE, Standing, hours_reading, journeys_reading, read_standing
from stream.core.retention import DAY_SECONDS
from tables.sql.cron import REBUILD_ID
from tables.sql.integrity import last_sign_of_life

_BEHIND_S = 300
_QUIET_S = DAY_SECONDS
_SIGN_OLD_S, _SIGN_LOST_S = 900, 7200
_READY = '/readyz and the log of the workers say what they wait for; "python -m stream status" shows each partition'


async def _standings(around: Surroundings) -> list[Standing]:
    settings = around.settings
    return [await read_standing(settings, reading(settings)) for reading in (journeys_reading, hours_reading)]


async def look_at_owners(around: Surroundings) -> Finding:
    standings = await _standings(around)
    if any(not each.group.members for each in standings):
        remedy = 'start one: "python -m stream worker"; if it ends at once, its last line says why'
        return error("no worker is running", remedy)
    idle = [
        f"partition {part.partition} of {', '.join(each.sources)}"
        for each in standings
        for part in each.partitions
        if part.has_records and not part.member
    ]
    states = {each.group.state for each in standings}
    if states != {STABLE}:
        remedy = "it settles within a minute; if it does not, workers come and go: see their logs"
        return warning(f"the group is settling: {', '.join(sorted(states))}", remedy, idle)
    if idle:
        return error(f"{len(idle)} partitions with records have no owner", _READY, idle)
    return ok(f"every partition has its owner, workers: {standings[0].group.members}")


async def look_at_offsets(around: Surroundings) -> Finding:
    refusals = [
        refusal
        for each in await _standings(around)
        for part in each.partitions
        if (refusal := refusal_of(around.settings, each, part))
    ]
    if not refusals:
        return ok("log, group and database fit each other")
    return error(f"{len(refusals)} partitions would be refused", refusals[0].hint, [str(each) for each in refusals])


async def look_at_lag(around: Surroundings) -> Finding:
    sources, hours = await _standings(around)
    behind = [
        f"partition {part.partition}: {part.lag:,} behind, at {utc(part.watermark) or 'no record yet'}"
        for part in sources.partitions
        if part.lag and around.now - (part.watermark or 0) > _BEHIND_S
    ]
    if behind:
        return warning(f"{sources.lag:,} records of the sources wait", f"more workers help; {_READY}", behind)
    return ok(f"records that wait: {sources.lag:,} of the sources, {hours.lag:,} of the journeys")


async def look_at_watermark(around: Surroundings) -> Finding:
    sources, _ = await _standings(around)
    newest = max((each.watermark for each in sources.partitions if each.watermark), default=None)
    if newest is None:
        return ok("no event has been processed yet")
    age = max(0, around.now - newest)
    text = f"the newest event processed is of {utc(newest)}, {length(age)} ago"
    if age > _QUIET_S:
        return warning(text, "if nothing waits, nothing was sent: look at the tracking servers, ingest or import")
    return ok(text)


async def look_at_heartbeat(around: Surroundings) -> Finding:
    async with around.database.reading() as connection:
        last = await last_sign_of_life(connection, REBUILD_ID)
    row = f"202_cronjob_logs id {REBUILD_ID}"
    if last is None:
        return warning(f"{row} is not there yet", "a worker writes it once it is current; see lag and hours")
    age = max(0, around.now - last)
    text = f"{row} is of {utc(last)}, {length(age)} ago"
    if age <= _SIGN_OLD_S:
        return ok(text)
    remedy = "a worker writes it while it is current; see owners, lag and hours"
    return error(text, remedy) if age > _SIGN_LOST_S else warning(text, remedy)


async def look_at_hours(around: Surroundings) -> Finding:
    work = await read_hours_work(around.settings, around.database)
    if work.unpublished or work.outdated:
        return warning(
            f"{work.unpublished:,} not yet published, {work.outdated:,} computed with older models or settings",
            f"workers do them within seconds; if they stay: {_READY}",
        )
    return ok(f"all are published and fit models and settings, open: {work.open:,}")


_BOTH = frozenset({Part.BROKER, Part.DATABASE})
WORK_CHECKS = (
    Check("owners", "workers share the partitions", look_at_owners, _BOTH),
    Check("offsets", "a worker may start where the last one ended", look_at_offsets, _BOTH),
    Check("lag", "what is in the log is in the database", look_at_lag, _BOTH),
    Check("watermark", "events come in", look_at_watermark, _BOTH),
    Check("heartbeat", "the cron's sign of life is fresh", look_at_heartbeat, frozenset({Part.DATABASE})),
    Check("hours", "hours are published and current", look_at_hours, frozenset({Part.DATABASE})),
)
