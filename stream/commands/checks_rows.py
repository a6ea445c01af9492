"""Checks of the database: its schema, and whether its rows fit one another."""

from collections.abc import Sequence

from stream.commands.checkup import Check, Finding, Part, Surroundings, error, ok, warning
from stream.commands.dead_letters import escaped
from stream.commands.hours_standing import read_hours_work
from stream.config import masked
from tables.sql.integrity import accounts_without_one_default, misplaced_touchpoints, wrong_converting_clicks
from tables.sql.upgrade import schema_differences

_REPLAY = '"python -m stream replay" over their time writes them again; "python -m stream explain ID" shows one'


async def look_at_database(around: Surroundings) -> Finding:
    async with around.database.reading() as connection:
        await connection.fetch("SELECT 1")
    return ok(f"{masked(around.settings.database_url)} answers")


async def look_at_schema(around: Surroundings) -> Finding:
    differences = await schema_differences(around.settings.database_url)
    if not differences:
        return ok("that of this release")
    remedy = '"python -m stream db upgrade" adds what is missing; other types and keys need a person'
    return error(f"{len(differences)} differences to the schema of this release", remedy, differences)


def _conversions(conv_ids: Sequence[int]) -> list[str]:
    return [f"conversion {conv_id}" for conv_id in conv_ids]


async def look_at_touchpoints(around: Surroundings) -> Finding:
    async with around.database.reading() as connection:
        wrong = await misplaced_touchpoints(connection)
    if not wrong:
        return ok("positions begin with 0 and have no gap, 26 at most")
    return error(f"{len(wrong):,} conversions have gaps, doubles or too many", _REPLAY, _conversions(wrong))


async def look_at_converting_clicks(around: Surroundings) -> Finding:
    async with around.database.reading() as connection:
        wrong = await wrong_converting_clicks(connection)
    if not wrong:
        return ok("each counted conversion has its own click once, others have no touchpoints")
    text = f"{len(wrong):,} conversions lack their own click, have it twice, or should have no touchpoints"
    return error(text, _REPLAY, _conversions(wrong))


async def look_at_default_models(around: Surroundings) -> Finding:
    async with around.database.reading() as connection:
        users = await accounts_without_one_default(connection)
    if not users:
        return ok("each account with models has one default")
    remedy = '"python -m stream models update" with --default chooses one'
    return error(f"{len(users):,} accounts have none or several", remedy, [f"user {user_id}" for user_id in users])


async def look_at_models(around: Surroundings) -> Finding:
    work = await read_hours_work(around.settings, around.database)
    wrong = [
        f'user {each.user_id}: "{escaped(each.slug)}" (model {each.model_id}): {escaped(each.reason)}'
        for each in work.broken_models
    ]
    wrong += [f"user {user_id}: no active model, so that nothing is attributed" for user_id in work.users_without_model]
    if not wrong:
        return ok("every active model can be computed")
    remedy = '"python -m stream models update" or "models create" mends it; open hours follow by themselves'
    return warning(f"{len(wrong):,} models or accounts give no results", remedy, wrong)


_DATABASE = frozenset({Part.DATABASE})
ROW_CHECKS = (
    Check("database", "the database can be reached", look_at_database),
    Check("schema", "the schema is that of this release", look_at_schema, _DATABASE),
    Check("touchpoints", "positions are contiguous", look_at_touchpoints, _DATABASE),
    Check("converting clicks", "each is in its journey once", look_at_converting_clicks, _DATABASE),
    Check("default models", "an account has one", look_at_default_models, _DATABASE),
    Check("models", "active models can be computed", look_at_models, _DATABASE),
)
