"""Journeys as they came out: one row a conversion, with all that the conversion says."""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import msgspec

from stream.core.events import Conversion, is_rekeyed_conversion
from stream.core.facts import EnteredNeed, Journey, Outcome, Touch
from stream.core.hours import HourKey
from stream.core.money import Units, amount_text
from tables.sql.addresses import MYSQL
from tables.sql.connections import Connection, Row
from tables.sql.errors import DuplicateKey, TransactionConflict
from tables.sql.inserts import Insert, optional_money, text_literal, whole_list
from tables.sql.selects import hour_clauses, in_batches, units

_RELATION = "202_stream_journeys"
_CONVERSION = (
    "conv_id",
    "click_id",
    "user_id",
    "campaign_id",
    "click_time",
    "conv_time",
    "click_payout",
    "own_click_cpc",
    "own_visitor_id",
    "transaction_id",
    "own_aff_network_id",
    "deleted",
    "revised_at",
)
_OUTCOME = (
    "journey_visitor_id",
    "outcome",
    "click_unknown",
    "incomplete",
    "click_cpc",
    "ppc_account_id",
    "aff_network_id",
    "touches",
    "version",
    "purged",
)
_WRITTEN = (*_CONVERSION, *_OUTCOME, "date_hour", "updated_at")
_MONEY = frozenset({"click_payout", "own_click_cpc", "click_cpc"})
# For some hundred ids MariaDB would rather read a hundred thousand rows, which takes it ten times as long.
_BY_CLICK = " FORCE INDEX (click_lookup)"
# Alike in shape to a journey, and told apart by what no journey lacks.
_NULLS = ", NULL" * (len(_CONVERSION) + len(_OUTCOME) - 2)
_SELECT_CREDITED = f"SELECT conv_id, version{_NULLS} FROM `202_stream_credited`"

_TEXTS = [_WRITTEN.index(name) for name in ("own_visitor_id", "transaction_id", "journey_visitor_id", "outcome")]
_TOUCHES = _WRITTEN.index("touches")
_OUTCOMES = {outcome.value: outcome for outcome in Outcome}

_encode_touches = msgspec.json.Encoder().encode
_decode_touches = msgspec.json.Decoder(tuple[Touch, ...]).decode


class _Stored(NamedTuple):
    journey: Journey
    updated_at: int


def _parameters(stored: _Stored) -> Row:
    conversion, visitor, outcome, unknown, incomplete, cpc, account, advertiser, touches, version, purged = (
        stored.journey
    )
    return (
        *conversion[:6],
        amount_text(conversion.click_payout),
        optional_money(conversion.click_cpc),
        *conversion[8:],
        visitor,
        outcome.value,
        int(unknown),
        int(incomplete),
        amount_text(cpc),
        account,
        advertiser,
        _encode_touches(touches).decode(),
        version,
        int(purged),
        stored.journey.date_hour,
        stored.updated_at,
    )


def _literal(stored: _Stored) -> str:
    values = list(_parameters(stored))
    for place in _TEXTS:
        values[place] = text_literal(values[place])
    # Touches are digits, commas and brackets: nothing in them could end the quotes.
    values[_TOUCHES] = f"'{values[_TOUCHES]}'"
    return f"({','.join('NULL' if value is None else str(value) for value in values)})"


_NEW = Insert(_RELATION, _WRITTEN, _literal, _parameters)
_UPSERT = Insert(_RELATION, _WRITTEN, _literal, _parameters, identity=("conv_id",))


async def write_journey_rows(
    connection: Connection, journeys: Sequence[Journey], *, new: Collection[int], updated_at: int
) -> None:
    """`new`: conversions of these that had no row when they were read.

    Raises TransactionConflict where another partition has stored one of them since for another user or click.
    """
    entering = [journey for journey in journeys if journey.conversion.conv_id in new]
    known = [_Stored(journey, updated_at) for journey in journeys if journey.conversion.conv_id not in new]
    if known:
        await connection.insert(_UPSERT, known)
    if not entering:
        return
    rows = [_Stored(journey, updated_at) for journey in entering]
    try:
        await connection.insert(_NEW, rows)
    except DuplicateKey:
        stored = await read_journeys(connection, "conv_id", [journey.conversion.conv_id for journey in entering])
        standing = {journey.conversion.conv_id: journey.conversion for journey in stored}
        for journey in entering:
            conversion = journey.conversion
            if is_rekeyed_conversion(standing.get(conversion.conv_id, conversion), conversion):
                raise TransactionConflict(f"conversion {conversion.conv_id} is being stored elsewhere") from None
        await connection.insert(_UPSERT, rows)  # the same chunk again


async def read_journeys(connection: Connection, column: str, ids: Iterable[int]) -> list[Journey]:
    """All whose `column`, conv_id or click_id, is one of the ids."""
    found: list[Journey] = []
    select = _select(connection.dialect)
    if column == "click_id" and connection.dialect == MYSQL:
        select += _BY_CLICK
    for batch in in_batches(sorted(ids)):
        rows = await connection.fetch(f"{select} WHERE {column} IN ({whole_list(batch)})")
        found += map(_journey_of, rows)
    return found


async def read_reported(connection: Connection, conv_ids: Iterable[int]) -> tuple[list[Journey], dict[int, int]]:
    """Their journeys; and of conversions that have none, and should have, the version that an hour has credited.

    One statement: a worker asks so for each chunk, and nearly always there is neither.
    """
    select = _select(connection.dialect)
    journeys: list[Journey] = []
    credited: dict[int, int] = {}
    for batch in in_batches(sorted(conv_ids)):
        clause = f"WHERE conv_id IN ({whole_list(batch)})"
        for row in await connection.fetch(f"{select} {clause} UNION ALL {_SELECT_CREDITED} {clause}"):
            if row[2] is None:
                credited[row[0]] = row[1]
            else:
                journeys.append(_journey_of(row))
    for journey in journeys:
        credited.pop(journey.conversion.conv_id, None)
    return journeys, credited


async def read_journeys_of_hours(connection: Connection, keys: Collection[HourKey]) -> list[Journey]:
    """All that were in one of the hours when it was looked for, as they are a moment later."""
    ids: list[int] = []
    for clause in hour_clauses(keys):
        ids += [row[0] for row in await connection.fetch(f"SELECT conv_id FROM `{_RELATION}` WHERE {clause}")]
    # Whole rows by their ids, a few at a time: an hour may hold a hundred thousand, and others want their turn.
    return await read_journeys(connection, "conv_id", ids)


async def read_entered(connection: Connection, needs: Sequence[EnteredNeed]) -> list[Journey]:
    """All of the keys with conv_time in [since, until]; one that two needs ask for may come twice."""
    select = _select(connection.dialect)
    found: list[Journey] = []
    for batch in in_batches(needs, size=200):
        statement = " UNION ALL ".join(
            f"{select} WHERE user_id = {user_id:d} AND campaign_id = {campaign_id:d} AND journey_visitor_id = ?"
            f" AND conv_time BETWEEN {since:d} AND {until:d}"
            for (user_id, campaign_id, _), since, until in batch
        )
        rows = await connection.fetch(statement, [need.key.visitor_id for need in batch])
        found += map(_journey_of, rows)
    return found


def _select(dialect: str) -> str:
    columns = [units(dialect, name) if name in _MONEY else name for name in (*_CONVERSION, *_OUTCOME)]
    return f"SELECT {', '.join(columns)} FROM `{_RELATION}`"


def _journey_of(row: Row) -> Journey:
    visitor, outcome, unknown, incomplete, cpc, account, advertiser, touches, version, purged = row[13:]
    return Journey(
        Conversion._make(row[:13]),
        visitor,
        _OUTCOMES[outcome],
        bool(unknown),
        bool(incomplete),
        Units(cpc),
        account,
        advertiser,
        _decode_touches(touches),
        version,
        bool(purged),
    )
