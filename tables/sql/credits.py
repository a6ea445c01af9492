"""202_attribution_touchpoints: the share of each touch, by model and conversion. A share is also its weight."""

from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from stream.core.hours import CreditRow, HourKey
from stream.core.money import Units, amount_text
from tables.sql.connections import Connection, Row
from tables.sql.inserts import Insert, whole_list
from tables.sql.selects import TERMS_A_STATEMENT, in_batches, units
from tables.sql.snapshots import GlobalSnapshot, read_global

_RELATION = "202_attribution_touchpoints"
_COLUMNS = ("snapshot_id", "conv_id", "click_id", "position", "credit", "weight", "created_at")
ROWS_AT_A_TIME = 20_000  # rows of a hot hour's model may be a million
_SNAPSHOTS_AT_A_TIME = 500
_PAIRS_A_STATEMENT = 4000  # of snapshot and conversion: beyond ten times that, MariaDB gives up making ranges
_FOREIGN_WEIGHT = -1


class StoredCredit(NamedTuple):
    """A row. `credit` in units of 0.00001; -1 where the weight is another, as only other hands would write it."""

    touchpoint_id: int
    snapshot_id: int
    conv_id: int
    position: int
    click_id: int
    credit: int


class Clearing(NamedTuple):
    """Which stored credits of a snapshot are looked at: those of some conversions, or, None, all."""

    snapshot: GlobalSnapshot
    conv_ids: Collection[int] | None

    @property
    def weight(self) -> int:
        """About so many rows."""
        return self.snapshot.clicks if self.conv_ids is None else len(self.conv_ids)


def _parameters(row: Row) -> Row:
    return row


def _literal(row: Row) -> str:
    snapshot_id, conv_id, click_id, position, credit, weight, created_at = row
    return f"({snapshot_id},{conv_id},{click_id},{position},{credit},{weight},{created_at})"


_UPSERT = Insert(
    _RELATION,
    _COLUMNS,
    _literal,
    _parameters,
    identity=("snapshot_id", "conv_id", "position"),
    kept=("created_at",),
)


async def write_credits(
    connection: Connection, credits: Mapping[int, Collection[CreditRow]], *, created_at: int
) -> None:
    """By snapshot: new rows, and those that stand there overwritten."""
    rows: list[Row] = []
    for snapshot_id, of_snapshot in credits.items():
        for _, conv_id, click_id, position, credit in of_snapshot:
            share = amount_text(Units(credit))
            rows.append((snapshot_id, conv_id, click_id, position, share, share, created_at))
            if len(rows) == ROWS_AT_A_TIME:
                await connection.insert(_UPSERT, rows)
                rows = []
    if rows:
        await connection.insert(_UPSERT, rows)


async def delete_credits(connection: Connection, touchpoint_ids: Sequence[int]) -> None:
    for batch in in_batches(sorted(touchpoint_ids)):
        await connection.run(f"DELETE FROM `{_RELATION}` WHERE touchpoint_id IN ({whole_list(batch)})")


async def read_cleared(connection: Connection, clearings: Sequence[Clearing]) -> AsyncIterator[Sequence[StoredCredit]]:
    """Rows in portions. The rows of one snapshot may come in several."""
    credit = units(connection.dialect, "credit")
    select = (
        "SELECT touchpoint_id, snapshot_id, conv_id, position, click_id,"
        f" CASE WHEN weight = credit THEN {credit} ELSE {_FOREIGN_WEIGHT} END FROM `{_RELATION}`"
    )
    whole = [clearing.snapshot for clearing in clearings if clearing.conv_ids is None]
    for snapshots in _portions(whole):
        async for rows in _pages(connection, select, snapshots):
            yield list(map(StoredCredit._make, rows))
    for clause in _pair_clauses([clearing for clearing in clearings if clearing.conv_ids]):
        yield list(map(StoredCredit._make, await connection.fetch(f"{select} WHERE {clause}")))


async def read_credits(connection: Connection, keys: Collection[HourKey]) -> dict[HourKey, list[CreditRow]]:
    """Of each hour, ascending."""
    found: dict[HourKey, list[CreditRow]] = {key: [] for key in keys}
    snapshots = await read_global(connection, keys)
    places = {snapshot.snapshot_id: snapshot for snapshot in snapshots}
    select = (
        "SELECT touchpoint_id, snapshot_id, conv_id, position, click_id,"
        f" {units(connection.dialect, 'credit')} FROM `{_RELATION}`"
    )
    for portion in _portions(snapshots):
        async for rows in _pages(connection, select, portion):
            for _, snapshot_id, conv_id, position, click_id, credit in rows:
                place = places[snapshot_id]
                row = CreditRow(place.model_id, conv_id, click_id, position, credit)
                found[place.hour].append(row)
    for credits in found.values():
        credits.sort()
    return found


def _portions(snapshots: Sequence[GlobalSnapshot]) -> Iterator[list[GlobalSnapshot]]:
    """Those with few credits together, each with many alone."""
    portion: list[GlobalSnapshot] = []
    rows = 0
    for snapshot in snapshots:
        if portion and (rows + snapshot.clicks > ROWS_AT_A_TIME or len(portion) == _SNAPSHOTS_AT_A_TIME):
            yield portion
            portion, rows = [], 0
        portion.append(snapshot)
        rows += snapshot.clicks
    if portion:
        yield portion


async def _pages(
    connection: Connection, select: str, portion: Sequence[GlobalSnapshot]
) -> AsyncIterator[Sequence[Row]]:
    """`select` begins with touchpoint_id, snapshot_id, conv_id. Only a snapshot that is alone has pages."""
    if len(portion) > 1:
        ids = whole_list([snapshot.snapshot_id for snapshot in portion])
        yield await connection.fetch(f"{select} WHERE snapshot_id IN ({ids})")
        return
    (snapshot,) = portion
    after = -1
    while True:
        rows = await connection.fetch(
            f"{select} WHERE snapshot_id = {snapshot.snapshot_id:d} AND conv_id > {after:d}"
            f" ORDER BY conv_id LIMIT {ROWS_AT_A_TIME}"
        )
        if len(rows) < ROWS_AT_A_TIME:
            yield rows
            return
        # The last conversion may go on in the next page; a page is longer than any conversion.
        last = rows[-1][2]
        whole = [row for row in rows if row[2] != last]
        yield whole
        after = whole[-1][2]


def _hour_of(clearing: Clearing) -> HourKey:
    return clearing.snapshot.hour


def _pair_clauses(clearings: Sequence[Clearing]) -> Iterator[str]:
    """Conditions that take snapshot and conversion together, for one statement each.

    The clearings of an hour follow one another, and are of the same conversions.
    """
    of_pairs: list[str] = []
    pairs = 0
    for _, found in groupby(clearings, key=_hour_of):
        of_hour = list(found)
        ids = whole_list([each.snapshot.snapshot_id for each in of_hour])
        for conv_ids in in_batches(sorted(of_hour[0].conv_ids or ())):
            if pairs + len(of_hour) * len(conv_ids) > _PAIRS_A_STATEMENT or len(of_pairs) == TERMS_A_STATEMENT:
                if of_pairs:
                    yield " OR ".join(of_pairs)
                of_pairs, pairs = [], 0
            of_pairs.append(f"(snapshot_id IN ({ids}) AND conv_id IN ({whole_list(conv_ids)}))")
            pairs += len(of_hour) * len(conv_ids)
    if of_pairs:
        yield " OR ".join(of_pairs)
