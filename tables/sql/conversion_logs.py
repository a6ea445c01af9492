"""202_conversion_logs: the conversions that count, as old readers expect them.

Only a counted conversion has a row. One that is deleted or a duplicate has none: old readers ask for deleted = 0 and
see the same, and no row that counts nothing can hold a transaction that another conversion needs.
"""

from collections.abc import Collection, Sequence

from stream.core.events import Conversion
from stream.core.facts import Journey, Outcome
from stream.core.money import amount_text
from tables.sql.connections import Connection, Row
from tables.sql.errors import DuplicateKey
from tables.sql.inserts import Insert, text_literal, whole_list
from tables.sql.selects import in_batches

_RELATION = "202_conversion_logs"
_COLUMNS = (
    "conv_id",
    "click_id",
    "transaction_id",
    "campaign_id",
    "click_payout",
    "user_id",
    "click_time",
    "conv_time",
    "time_difference",
    "ip",
    "pixel_type",
    "user_agent",
    "deleted",
)


def _literal(conversion: Conversion) -> str:
    transaction = text_literal(conversion.transaction_id) if conversion.transaction_id else "NULL"
    return (
        f"({conversion.conv_id},{conversion.click_id},{transaction},{conversion.campaign_id},"
        f"{amount_text(conversion.click_payout)},{conversion.user_id},{conversion.click_time},{conversion.conv_time},"
        f"'{conversion.conv_time - conversion.click_time}','',0,'',0)"
    )


def _parameters(conversion: Conversion) -> Row:
    return (
        conversion.conv_id,
        conversion.click_id,
        conversion.transaction_id or None,
        conversion.campaign_id,
        amount_text(conversion.click_payout),
        conversion.user_id,
        conversion.click_time,
        conversion.conv_time,
        # No event tells of these; their columns take no NULL.
        str(conversion.conv_time - conversion.click_time),
        "",
        0,
        "",
        0,
    )


_INSERT = Insert(_RELATION, _COLUMNS, _literal, _parameters)


async def replace_conversion_logs(
    connection: Connection, journeys: Sequence[Journey], displaced: Collection[int]
) -> None:
    """Key: conv_id. The rows of `displaced` go too: conversions elsewhere whose transaction counts here now.

    Raises DuplicateKey where another partition decides about the same click and transaction at this moment.
    """
    counted = [journey.conversion for journey in journeys if journey.outcome is Outcome.COUNTED]
    ids = sorted({journey.conversion.conv_id for journey in journeys} | set(displaced))
    await _delete(connection, ids)
    if not counted:
        return
    try:
        await connection.insert(_INSERT, counted)
    except DuplicateKey:
        if not await _remove_strangers(connection, counted):
            raise
        await _delete(connection, ids)  # SQLite may have stored some of them
        await connection.insert(_INSERT, counted)


async def _remove_strangers(connection: Connection, counted: Sequence[Conversion]) -> int:
    """Rows that no event of ours stands behind, left by an installation's earlier life, give way. Returns how many."""
    found: list[int] = []
    for batch in in_batches([conversion for conversion in counted if conversion.transaction_id], size=200):
        pairs = " OR ".join(f"(click_id = {conversion.click_id:d} AND transaction_id = ?)" for conversion in batch)
        statement = (
            f"SELECT conv_id FROM `{_RELATION}` WHERE ({pairs}) AND NOT EXISTS (SELECT 1 FROM `202_stream_journeys`"
            f" WHERE `202_stream_journeys`.conv_id = `{_RELATION}`.conv_id)"
        )
        rows = await connection.fetch(statement, [conversion.transaction_id for conversion in batch])
        found += [conv_id for (conv_id,) in rows]
    await _delete(connection, sorted(found))
    return len(found)


async def _delete(connection: Connection, conv_ids: Sequence[int]) -> None:
    for ids in in_batches(conv_ids):
        await connection.run(f"DELETE FROM `{_RELATION}` WHERE conv_id IN ({whole_list(ids)})")
