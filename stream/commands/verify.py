"""`replay --verify`: what the log alone gives against what SQL holds, and the certificate. Writes nothing to either."""

import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

import click

from stream.agents.topic_names import topic_names
from stream.commands.dead_letters import escaped
from stream.commands.hour_access import hour_store
from stream.commands.hours_standing import read_full_standing
from stream.commands.replay_plan import DAY_SECONDS, Plan, Wish, check_reach, make_plan
from stream.commands.replay_report import Telling
from stream.commands.showing import utc
from stream.commands.verify_rows import Comparison
from stream.commands.verify_scratch import Scratch, accounts_of, scratch_folder, whole_hours
from stream.config import Settings
from stream.core.errors import StartRefused, StreamError
from stream.core.hours import HourKey
from stream.replay.certificate import AllDigesting, DayDigest, DayDigesting
from stream.replay.comparing import Difference
from tables.sql.database import Database, open_database
from tables.sql.facts import list_progress
from tables.sql.snapshots import read_global, steps_text
from tables.sql.standing_rows import (
    Span,
    conversions_by_hour,
    credits_in_order,
    hours_with_snapshots,
    pages_of_conversions,
    slugs_of,
    snapshots_in_order,
)
from tables.sql.touchpoints import touchpoints_of
from tables.sql.upgrade import upgrade_schema

MOST_SHOWN = 100


class VerifyFailed(StreamError):
    """At least one row is not what the log gives, or all was broken off."""


@dataclass(slots=True)
class Found:
    """What a verification came to."""

    digests: list[DayDigest] = field(default_factory=list)
    digest: str = ""  # over all
    first: list[Difference] = field(default_factory=list)
    differences: int = 0
    unverified_conversions: int = 0
    outdated_hours: int = 0
    behind: int = 0  # records that workers have before them

    def take(self, difference: Difference) -> bool:
        """Whether it is one of those that are shown."""
        self.differences += 1
        if len(self.first) < MOST_SHOWN:
            self.first.append(difference)
            return True
        return False


async def verify(settings: Settings, database: Database, wish: Wish, *, is_json: bool) -> None:
    """Raises VerifyFailed for any difference, StartRefused where the log is too short for the range."""
    found = Found()
    standing = await read_full_standing(settings)
    found.behind = standing.sources.lag + standing.hours.log.lag
    if found.behind:
        click.echo(f"warning: workers are {found.behind:,} records behind: differences may be theirs", err=True)
    plan = await whole_plan(settings, wish)
    with Telling(wish, is_silent=is_json) as telling:
        await _certify(database, wish, found, telling, is_json=is_json)
        telling.say(f"verify: {plan.records:,} records to read, from the beginning of the log")
        await find_differences(settings, wish, plan, database=database, found=found, telling=telling)
        _conclude(found, telling)
    if is_json:
        click.echo(json.dumps(_as_json(wish, found)))
    if found.differences:
        raise VerifyFailed(
            "SQL is not what the log gives",
            hint="a replay of the range mends journeys and touchpoints, a rebuild hours",
        )


async def whole_plan(settings: Settings, wish: Wish) -> Plan:
    """All of the log; what SQL may know beyond it does not count. Raises StartRefused where it begins too late."""
    plan = await make_plan(settings, replace(wish, start=0), topic_names(settings))
    try:
        check_reach(settings, wish, plan, {})
    except StartRefused as error:
        hint = "--allow-incomplete verifies what the log still tells; --start later needs less"
        raise StartRefused(str(error), hint=hint) from error
    return plan


async def find_differences(
    settings: Settings, wish: Wish, plan: Plan, *, database: Database, found: Found, telling: Telling
) -> None:
    """Compute the log anew, in a scratch database below the data folder, and compare; `found` takes what differs."""
    with scratch_folder(settings.data_dir) as folder:
        url = f"sqlite+aiosqlite:///{(folder / 'computed.db').absolute()}"
        await upgrade_schema(url)
        scratch = open_database(url, is_scratch=True)
        try:
            await _compare(settings, wish, plan, database=database, scratch=scratch, found=found, telling=telling)
        finally:
            await scratch.close()


async def _compare(
    settings: Settings,
    wish: Wish,
    plan: Plan,
    *,
    database: Database,
    scratch: Database,
    found: Found,
    telling: Telling,
) -> None:
    computing = Scratch(settings, wish, plan, installed=database, scratch=scratch)
    await computing.compute(telling)
    await computing.take_over_what_no_log_tells()
    await computing.fire_hours(telling)
    comparison = Comparison(
        settings,
        wish,
        installed=database,
        computed=scratch,
        hours=hour_store(settings, database, owner="verify"),
        history_from={row.partition: row.history_from for row in await list_progress(database)},
        partitions=topic_names(settings).partitions,
        is_log_short=bool(plan.begins_at),
    )
    async for difference in comparison.differences():
        if found.take(difference):
            telling.say(escaped(str(difference)))
    found.unverified_conversions = computing.unverified
    found.outdated_hours = comparison.outdated_hours


def _conclude(found: Found, telling: Telling) -> None:
    if found.differences > MOST_SHOWN:
        telling.say(f"and {found.differences - MOST_SHOWN:,} more")
    if found.outdated_hours:
        telling.say(
            f"{found.outdated_hours:,} hours were not compared: computed with other models or settings than those of"
            " now; a rebuild brings them up"
        )
    if found.unverified_conversions:
        telling.say(
            f"{found.unverified_conversions:,} conversions cannot be verified: the log begins after what they rest on"
        )
    telling.say(f"{found.differences} differences")


# The certificate


async def _certify(database: Database, wish: Wish, found: Found, telling: Telling, *, is_json: bool) -> None:
    everything = AllDigesting()
    for user_id in await accounts_of(database, wish):
        async for of_day in _digests(database, wish, user_id):
            everything.take(of_day)
            if is_json:
                found.digests.append(of_day)
            telling.say(
                f"{_date(of_day.day)} user {user_id} {of_day.digest} ({of_day.touchpoints:,} touchpoints,"
                f" {of_day.snapshots:,} snapshots, {of_day.credits:,} credits)"
            )
    found.digest = everything.done()
    telling.say(f"certificate {found.digest}")


async def _digests(database: Database, wish: Wish, user_id: int) -> AsyncIterator[DayDigest]:
    span = Span(user_id, *whole_hours(wish))
    async with database.reading() as connection:
        hours = {date_hour for date_hour, _ in await conversions_by_hour(connection, span)}
        hours |= await hours_with_snapshots(connection, span)
    days: dict[int, list[HourKey]] = {}
    for date_hour in sorted(hours):
        days.setdefault(date_hour - date_hour % DAY_SECONDS, []).append(HourKey(user_id, date_hour))
    for day, keys in days.items():
        digesting = DayDigesting(day, user_id)
        within = Span(user_id, max(day, wish.start), min(day + DAY_SECONDS - 1, wish.end))
        async for page in pages_of_conversions(database, within):
            async with database.reading() as connection:
                shown = await touchpoints_of(connection, page)
            for conv_id in page:
                for touch in shown[conv_id]:
                    digesting.take("touchpoint", user_id, conv_id, *touch)
        await _digest_results(database, user_id, keys, digesting)
        if (of_day := digesting.done()) is not None:
            yield of_day


async def _digest_results(database: Database, user_id: int, keys: Sequence[HourKey], digesting: DayDigesting) -> None:
    async with database.reading() as connection:
        slugs = await slugs_of(connection, user_id)
        for place, row in await snapshots_in_order(connection, keys, slugs):
            money = (steps_text(row.revenue), steps_text(row.cost))
            digesting.take("snapshot", user_id, *place, row.clicks, row.conversions, *money)
        async for credit in credits_in_order(connection, await read_global(connection, keys), slugs):
            digesting.take("credit", user_id, *credit.place, credit.click_id, credit.parts)


def _date(day: int) -> str:
    return (utc(day) or str(day))[:10]


def _as_json(wish: Wish, found: Found) -> dict[str, object]:
    return {
        "ok": not found.differences,
        "start": wish.start,
        "end": wish.end,
        "users": list(wish.users),
        "behind": found.behind,
        "certificate": {
            "digest": found.digest,
            "days": [{**each._asdict(), "day": _date(each.day)} for each in found.digests],
        },
        "differences": found.differences,
        "first": [difference._asdict() for difference in found.first],
        "unverified_conversions": found.unverified_conversions,
        "outdated_hours": found.outdated_hours,
    }
