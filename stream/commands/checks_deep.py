"""The checks of `doctor --deep`: do SQL's rows fit the log, and one another, to the last one?"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from stream.commands.checkup import Check, Checked, Finding, Part, Surroundings, error, go_through, ok, warning
from stream.commands.dead_letters import escaped
from stream.commands.deep import Behind, compare_with_log, wait_for_workers
from stream.commands.deep_letters import compare_letters
from stream.commands.deep_outputs import unlike_outputs
from stream.commands.replay_plan import DAY_SECONDS, Wish
from stream.commands.showing import utc
from stream.core.hours import HOUR_SECONDS
from tables.sql.audit_looks import unsaid_notes
from tables.sql.connections import Connection
from tables.sql.deep import (
    Within,
    foreign_credits,
    foreign_touchpoints,
    unaudited_changes,
    uneven_credits,
    uneven_totals,
)

_MOST_DETAILS = 1000
_BOTH = frozenset({Part.BROKER, Part.DATABASE})
_DATABASE = frozenset({Part.DATABASE})


async def look_deeper(around: Surroundings, wish: Wish, away: Sequence[Checked]) -> list[Checked]:
    """`away`: what the other checks have found already."""
    looks = _Looks(wish)
    checks = (
        Check("log and rows (I1, I6)", "the log, computed anew, gives the rows", looks.at_log, _BOTH),
        Check("dead letters (I1)", "each record that cannot be read has one", looks.at_letters, _BOTH),
        Check("credits (I2)", "credits of a conversion and model are 1 in all", looks.at_credits, _DATABASE),
        Check("touches (I3)", "clicks that earn belong to the journey", looks.at_touches, _DATABASE),
        Check("totals (I4)", "an hour's totals are those of its conversions", looks.at_totals, _DATABASE),
        Check("outputs (I5)", "topics hold what SQL holds", looks.at_outputs, _BOTH),
        Check("audit (I7)", "changes of models and settings are noted", looks.at_audit, _DATABASE),
    )
    return await go_through(checks, around, before=away)


class _Looks:
    def __init__(self, wish: Wish) -> None:
        self._wish = wish
        self._within = Within(wish.users, wish.start - wish.start % HOUR_SECONDS, wish.end)
        range_text = f'--start "{utc(wish.start)}" --end "{utc(wish.end)}"'
        users = "".join(f" --user {user_id}" for user_id in wish.users[:10])
        self._replay = f'"python -m stream replay{users} {range_text}" writes journeys and touchpoints again'
        self._rebuild = '"python -m stream rebuild --user ID --start --end --force" writes the hours again'

    async def at_log(self, around: Surroundings) -> Finding:
        found = await compare_with_log(around.settings, around.database, self._wish)
        if isinstance(found, Behind):
            return _too_early(found.records)
        details = [escaped(str(each)) for each in found.first]
        if found.differences:
            return error(f"{found.differences:,} rows differ", f"{self._replay}; {self._rebuild}", details)
        unseen = [
            f"{found.moving:,} changed while they were looked at" if found.moving else "",
            f"{found.unverified_conversions:,} conversions rest on what the log has no more"
            if found.unverified_conversions
            else "",
            f"{found.outdated_hours:,} hours are of earlier models or settings" if found.outdated_hours else "",
        ]
        return ok("; ".join(["no row differs", *filter(None, unseen)]))

    async def at_letters(self, around: Surroundings) -> Finding:
        """Of all accounts and times: what cannot be read belongs to none."""
        found = await compare_letters(around.settings, most=_MOST_DETAILS)
        if found.behind:
            return _too_early(found.behind)
        if found.missing:
            remedy = "show the records with a Kafka client and tell us; a worker has passed them and left no trace"
            return error(f"{found.missing:,} records can neither be read nor have a dead letter", remedy, found.first)
        lost = f"; {found.lost:,} are older than all letters that Kafka still keeps" if found.lost else ""
        return ok(f"{found.unreadable - found.lost:,} records cannot be read, each has one{lost}")

    async def at_credits(self, around: Surroundings) -> Finding:
        async def wrong(connection: Connection) -> AsyncGenerator[str, None]:
            async for conv_id, model_id, parts in uneven_credits(connection, self._within):
                yield f"conversion {conv_id}, model {model_id}: {parts:,} of 100,000 parts, or weights unlike credits"

        found = await _found_twice(around, wrong)
        if not found:
            return ok("each sums to exactly 1")
        return error(f"{_number(found)} sums of credits are not 1", self._rebuild, found)

    async def at_touches(self, around: Surroundings) -> Finding:
        lookback = around.settings.lookback_days * DAY_SECONDS

        async def wrong(connection: Connection) -> AsyncGenerator[str, None]:
            async for conv_id, click_id in foreign_touchpoints(connection, self._within, lookback):
                yield f"conversion {conv_id}: touchpoint of click {click_id}"
            async for conv_id, click_id in foreign_credits(connection, self._within):
                yield f"conversion {conv_id}: credit to click {click_id}"

        found = await _found_twice(around, wrong)
        if not found:
            return ok("all of the conversion's key and within its lookback")
        text = f"{_number(found)} touchpoints or credits are of clicks that the conversion did not follow"
        return error(text, f"{self._replay}; {self._rebuild}", found)

    async def at_totals(self, around: Surroundings) -> Finding:
        found = await _found_twice(around, lambda connection: uneven_totals(connection, self._within))
        if not found:
            return ok("conversions and money are those of the credits")
        return error(f"{_number(found)} snapshots differ from their conversions", self._rebuild, found)

    async def at_outputs(self, around: Surroundings) -> Finding:
        """Hours that are not published yet are none of this: `hours` tells of them."""
        settings = around.settings
        found = await _found_twice(around, lambda connection: unlike_outputs(settings, connection, self._within))
        if not found:
            return ok("newest records are those of the rows")
        remedy = f"{self._rebuild} and publishes them; {self._replay} and publishes journeys"
        return error(f"{_number(found)} records and rows differ", remedy, found)

    async def at_audit(self, around: Surroundings) -> Finding:
        async with around.database.reading() as connection:
            found = await unaudited_changes(connection, self._wish.users)
        changed = [each.text for each in found if not each.is_never]
        if changed:
            remedy = "another program changed them: look at their values, and set them once by command"
            return error(f"{len(changed):,} were changed after the last change that is noted", remedy, changed)
        ours = await _lines(around, lambda connection: self._unsaid(connection, is_ours=True))
        if ours:
            remedy = "our programs leave none of it out: somebody changed these rows, or this is a defect"
            return error(f"{_number(ours)} audit rows lack who, whence, before or after", remedy, ours)
        remedy = "they are older than this installation, or another program made them"
        if found:
            return warning(f"of {len(found):,} nothing was ever noted", remedy, [each.text for each in found])
        if others := await _lines(around, lambda connection: self._unsaid(connection, is_ours=False)):
            return warning(f"{_number(others)} audit rows lack who, whence, before or after", remedy, others)
        return ok("the last change of each is noted, each with who, whence, before and after")

    async def _unsaid(self, connection: Connection, *, is_ours: bool) -> AsyncGenerator[str, None]:
        async for note in unsaid_notes(connection, self._wish.users):
            if note.is_ours is is_ours:
                yield note.text


def _too_early(behind: int) -> Finding:
    remedy = '"python -m stream status --wait-drained 600" waits; without a worker nothing is to be expected'
    return warning(f"not compared: workers are {behind:,} records behind", remedy)


async def _found_twice(around: Surroundings, look: Callable[[Connection], AsyncGenerator[str, None]]) -> Sequence[str]:
    """What workers were about to mend is gone the second time."""
    found = await _lines(around, look)
    if not found:
        return ()
    await wait_for_workers(around.settings)
    again = set(await _lines(around, look))
    return [line for line in found if line in again]


async def _lines(around: Surroundings, look: Callable[[Connection], AsyncGenerator[str, None]]) -> Sequence[str]:
    """The first of them: more than these help nobody."""
    found: list[str] = []
    async with around.database.reading() as connection, aclosing(look(connection)) as lines:
        async for line in lines:
            found.append(line)
            if len(found) == _MOST_DETAILS:
                break
    return found


def _number(found: Sequence[str]) -> str:
    return f"{len(found):,}" if len(found) < _MOST_DETAILS else f"at least {len(found):,}"
