"""Clicks as facts: stored once by id, found by id, and the newest of a journey key."""

from collections.abc import Iterable, Mapping, Sequence

from stream.core.events import Click
from stream.core.facts import HistoryNeed, Touch
from stream.core.money import amount_text
from tables.sql.addresses import MYSQL
from tables.sql.connections import ROWS_A_STATEMENT, Connection, Row
from tables.sql.errors import DuplicateKey, TransactionConflict
from tables.sql.inserts import Insert, text_literal, whole_list
from tables.sql.selects import in_batches, units

_RELATION = "202_stream_clicks"
_TOUCH = "click_time, click_id, ppc_account_id, ppc_network_id, landing_page_id, text_ad_id"
_ATTEMPTS = 3
# Of nobody: no account has the number 0.
_FIRST_KEY = (
    "SELECT -1 AS need, 0 AS user_id, 0 AS campaign_id, '' COLLATE utf8mb4_bin AS visitor_id, 0 AS until_time,"
    " 0 AS until_id"
)


def _literal(click: Click) -> str:
    a, user, campaign, time, cpc, visitor, account, network, page, ad, advertiser, bot, filtered, revised = click
    return (
        f"({a},{user},{campaign},{time},{amount_text(cpc)},{text_literal(visitor)},"
        f"{account},{network},{page},{ad},{advertiser},{bot},{filtered},{revised})"
    )


def _parameters(click: Click) -> tuple[object, ...]:
    return (*click[:4], amount_text(click.click_cpc), *click[5:])


_NEW = Insert(_RELATION, Click._fields, _literal, _parameters)
_REPLACING = Insert(_RELATION, Click._fields, _literal, _parameters, identity=("click_id",))


async def claim_clicks(connection: Connection, clicks: Sequence[Click], *, is_hopeful: bool) -> dict[int, Click]:
    """Insert those whose id is new; return the stored rows of the others, locked until the transaction ends.

    Hopeful: MySQL is not asked first which are there. That saves a question where all are new, and costs a statement
    that fails where one is not.
    """
    # In the order of the key: two partitions that claim the same ids then wait for each other instead of deadlocking.
    ordered = sorted(clicks)
    stored: dict[int, Click] = {}
    for start in range(0, len(ordered), ROWS_A_STATEMENT):
        batch = ordered[start : start + ROWS_A_STATEMENT]
        if connection.dialect == MYSQL:
            stored |= await _claim_against_others(connection, batch, is_hopeful=is_hopeful)
        else:
            stored |= await _claim_after_look(connection, batch)
    return stored


async def _claim_against_others(
    connection: Connection, clicks: Sequence[Click], *, is_hopeful: bool
) -> dict[int, Click]:
    """A duplicate undoes the statement that met it, and that alone."""
    stored: dict[int, Click] = {}
    if not is_hopeful:
        stored = await read_clicks(connection, [click.click_id for click in clicks], lock=" FOR UPDATE")
    for _ in range(_ATTEMPTS):
        new = [click for click in clicks if click.click_id not in stored]
        if not new:
            return stored
        try:
            await connection.insert(_NEW, new)
        except DuplicateKey:
            # Another partition may store one of them between this look and the next try: then once more.
            stored |= await read_clicks(connection, [click.click_id for click in new], lock=" FOR UPDATE")
        else:
            return stored
    raise TransactionConflict("clicks are being stored by another partition")


async def _claim_after_look(connection: Connection, clicks: Sequence[Click]) -> dict[int, Click]:
    """SQLite has one writer at a time: what is not there now stays away until we have written."""
    stored = await read_clicks(connection, [click.click_id for click in clicks])
    new = [click for click in clicks if click.click_id not in stored]
    if new:
        await connection.insert(_NEW, new)
    return stored


async def replace_clicks(connection: Connection, clicks: Sequence[Click]) -> None:
    await connection.insert(_REPLACING, sorted(clicks))


async def read_clicks(connection: Connection, click_ids: Iterable[int], *, lock: str = "") -> dict[int, Click]:
    columns = ", ".join(Click._fields).replace("click_cpc", units(connection.dialect, "click_cpc"))
    found: dict[int, Click] = {}
    for ids in in_batches(sorted(click_ids)):
        statement = f"SELECT {columns} FROM `{_RELATION}` WHERE click_id IN ({whole_list(ids)}){lock}"
        found.update((row[0], Click._make(row)) for row in await connection.fetch(statement))
    return found


async def read_histories(connection: Connection, needs: Sequence[HistoryNeed]) -> Mapping[HistoryNeed, Sequence[Touch]]:
    """The newest clicks of each key, newest first; an entry for each need."""
    found: dict[HistoryNeed, list[Touch]] = {need: [] for need in needs}
    is_mysql = connection.dialect == MYSQL
    for batch in in_batches(list(found), size=500 if is_mysql else 200):  # SQLite takes no more than 500 at once
        rows = await _whole_histories(connection, batch) if is_mysql else None
        if rows is None:
            selects = [_history_select(connection.dialect, index, need) for index, need in enumerate(batch)]
            rows = await connection.fetch(" UNION ALL ".join(selects), [need.key.visitor_id for need in batch])
        for row in rows:
            found[batch[row[0]]].append(Touch._make(row[1:]))
    for need, touches in found.items():
        touches.sort(reverse=True)  # the order within a statement of many is nobody's promise
        del touches[need.limit :]
    return found


async def _whole_histories(connection: Connection, needs: Sequence[HistoryNeed]) -> Sequence[Row] | None:
    """All clicks of the keys up to their moments, in a quarter of the time; None where they are more than was asked
    for: a key may have millions, and then the newest of each have to be looked for one by one."""
    most = sum(need.limit for need in needs)
    # The first names the columns of all, and says how they compare: named in each they cost twice as much.
    keys = _FIRST_KEY + "".join(
        f" UNION ALL SELECT {index:d}, {key.user_id:d}, {key.campaign_id:d}, {text_literal(key.visitor_id)},"
        f" {until.click_time:d}, {until.click_id:d}"
        for index, (key, until, _) in enumerate(needs)
    )
    rows = await connection.fetch(
        f"SELECT k.need, {_TOUCH} FROM ({keys}) k STRAIGHT_JOIN `{_RELATION}` c"
        " ON c.user_id = k.user_id AND c.campaign_id = k.campaign_id AND c.visitor_id = k.visitor_id"
        " WHERE c.click_time <= k.until_time AND NOT (c.click_time = k.until_time AND c.click_id > k.until_id)"
        f" AND NOT (k.visitor_id <> '' AND c.click_bot) LIMIT {most + 1:d}"
    )
    return rows if len(rows) <= most else None


def _history_select(dialect: str, index: int, need: HistoryNeed) -> str:
    (user_id, campaign_id, visitor_id), (time, click_id), limit = need
    # Written as a range of click_time with an exception, so that the index bounds the search on both servers.
    select = (
        f"SELECT {index:d}, {_TOUCH} FROM `{_RELATION}` WHERE user_id = {user_id:d} AND campaign_id = {campaign_id:d}"
        f" AND visitor_id = ? AND click_time <= {time:d} AND NOT (click_time = {time:d} AND click_id > {click_id:d})"
        f"{' AND click_bot = 0' if visitor_id else ''} ORDER BY click_time DESC, click_id DESC LIMIT {limit:d}"
    )
    return f"({select})" if dialect == MYSQL else f"SELECT * FROM ({select})"
