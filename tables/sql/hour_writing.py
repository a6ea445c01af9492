"""How does a fire reach the tables? Rows are compared with what stands there, and only differences are written.

A conversion that is new to an hour costs no look at old credits. Where an hour is written anew, a credit that stays as
it was is read and not written: in a rebuild that is nearly all of them.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

from stream.core.hours import CreditRow, HourKey, credit_key, snapshot_key
from stream.core.results import HourChange, Removal, RemovalKind
from stream.core.totals import Scope, ScopeKey
from tables.sql.connections import Connection
from tables.sql.credits import (
    ROWS_AT_A_TIME,
    Clearing,
    delete_credits,
    read_cleared,
    write_credits,
)
from tables.sql.hours import write_credited, write_hours
from tables.sql.removals import delete_removals, insert_removals, read_removals
from tables.sql.snapshots import (
    GlobalSnapshot,
    SnapshotPlace,
    delete_snapshots,
    find_snapshots,
    read_global,
    write_snapshots,
)

_Place = tuple[HourKey, int]  # hour and model
_CREDITS_OF_A_CONVERSION = 1 << 16  # positions are small


async def write_changes(
    connection: Connection, changes: Sequence[HourChange], *, now: int
) -> Mapping[HourKey, Sequence[Removal]]:
    """As `stream.agents.hour_ports` has it. The caller holds the locks of the accounts."""
    writing = _Writing(connection, changes, now)
    await writing.write_results()
    await write_credited(connection, changes)
    await write_hours(connection, changes, fired_at=now)
    return await writing.settle_removals()


class _Writing:
    """One call of `write_changes`."""

    def __init__(self, connection: Connection, changes: Sequence[HourChange], now: int) -> None:
        self._connection = connection
        self._changes = changes
        self._now = now
        self._gone: dict[HourKey, set[Removal]] = defaultdict(set)

    async def write_results(self) -> None:
        connection = self._connection
        touched = [change.key for change in self._changes if _touches_results(change)]
        standing = await read_global(connection, touched) if touched else []
        clearings = list(_clearings(self._changes, standing))
        await write_snapshots(
            connection,
            ((change.key, row) for change in self._changes for row in change.snapshots),
            created_at=self._now,
        )
        credits = await self._by_place()
        snapshots = {(each.hour, each.model_id): each for each in standing}
        new = {hour for hour, model_id in credits if (hour, model_id) not in snapshots}
        for each in await read_global(connection, new) if new else []:
            snapshots.setdefault((each.hour, each.model_id), each)
        await self._write_credits(credits, snapshots, clearings)
        await self._remove_snapshots()

    async def _by_place(self) -> dict[_Place, list[CreditRow]]:
        found: dict[_Place, list[CreditRow]] = {}
        silent = 0
        for change in self._changes:
            of_models: dict[int, list[CreditRow]] = defaultdict(list)
            for row in change.credits:
                of_models[row.model_id].append(row)
            for model_id, rows in of_models.items():
                found[change.key, model_id] = rows
            silent += len(change.credits)
            if silent >= ROWS_AT_A_TIME:
                await self._connection.keep_alive()
                silent = 0
        return found

    async def _write_credits(
        self,
        credits: dict[_Place, list[CreditRow]],
        snapshots: Mapping[_Place, GlobalSnapshot],
        clearings: Sequence[Clearing],
    ) -> None:
        for portion in _portions(clearings, credits):
            wanted: dict[int, dict[int, CreditRow]] = {}
            for snapshot, _ in portion:
                rows = credits.pop((snapshot.hour, snapshot.model_id), [])
                wanted[snapshot.snapshot_id] = {_number(row.conv_id, row.position): row for row in rows}
            await self._compare(portion, wanted)
            different = {snapshot_id: rows.values() for snapshot_id, rows in wanted.items()}
            await write_credits(self._connection, different, created_at=self._now)
        new = {snapshots[place].snapshot_id: rows for place, rows in sorted(credits.items())}
        await write_credits(self._connection, new, created_at=self._now)

    async def _compare(self, portion: Sequence[Clearing], wanted: Mapping[int, dict[int, CreditRow]]) -> None:
        """Takes out of `wanted` what stands there already, and out of SQL what is not wanted."""
        places = {snapshot.snapshot_id: snapshot for snapshot, _ in portion}
        surplus: list[int] = []
        async for rows in read_cleared(self._connection, portion):
            for touchpoint_id, snapshot_id, conv_id, position, click_id, credit in rows:
                of_snapshot, number = wanted[snapshot_id], _number(conv_id, position)
                row = of_snapshot.get(number)
                if row is None:
                    hour, model_id, *_ = places[snapshot_id]
                    surplus.append(touchpoint_id)
                    key = credit_key(hour, model_id, conv_id, position)
                    self._gone[hour].add(Removal(RemovalKind.CREDIT, key))
                elif (row.click_id, row.credit) == (click_id, credit):
                    del of_snapshot[number]
        await delete_credits(self._connection, surplus)

    async def _remove_snapshots(self) -> None:
        places = [SnapshotPlace(change.key, key) for change in self._changes for key in change.removed_snapshots]
        found = await find_snapshots(self._connection, places) if places else {}
        await delete_snapshots(self._connection, list(found.values()))
        for hour, key in found:
            self._gone[hour].add(Removal(RemovalKind.SNAPSHOT, snapshot_key(hour, key)))

    async def settle_removals(self) -> Mapping[HourKey, Sequence[Removal]]:
        """All that stand now, by hour: those of before whose row was not written again, and the new ones."""
        changes = {change.key: change for change in self._changes}
        standing: dict[HourKey, set[Removal]] = {key: set() for key in changes}
        found = await read_removals(self._connection, changes)
        for _, hour, removal in found:
            standing[hour].add(removal)
        for hour in {hour for _, hour, _ in found}:
            standing[hour] -= await self._written_again(changes[hour], standing[hour])
        overtaken = [removal_id for removal_id, hour, removal in found if removal not in standing[hour]]
        await delete_removals(self._connection, overtaken)
        await insert_removals(self._connection, {hour: gone - standing[hour] for hour, gone in self._gone.items()})
        return {hour: sorted(removals | self._gone.get(hour, set())) for hour, removals in standing.items()}

    async def _written_again(self, change: HourChange, removals: Collection[Removal]) -> set[Removal]:
        """Rows of a hot hour are too many to be remembered, and take so long that the server must hear of us."""
        again: set[Removal] = set()
        for number, removal in enumerate(_written(change), 1):
            if removal in removals:
                again.add(removal)
            if number % ROWS_AT_A_TIME == 0:
                await self._connection.keep_alive()
        return again


def _touches_results(change: HourChange) -> bool:
    return bool(
        change.snapshots or change.removed_snapshots or change.credits or change.cleared is None or change.cleared
    )


def _clearings(changes: Sequence[HourChange], standing: Sequence[GlobalSnapshot]) -> Iterator[Clearing]:
    """Which credits that stand may have to go. All of them where their snapshot goes."""
    by_hour = {change.key: change for change in changes}
    for snapshot in sorted(standing):
        change = by_hour[snapshot.hour]
        if change.cleared is None or ScopeKey(snapshot.model_id, Scope.GLOBAL, 0) in change.removed_snapshots:
            yield Clearing(snapshot, None)
        elif change.cleared:
            yield Clearing(snapshot, change.cleared)


def _portions(
    clearings: Sequence[Clearing], credits: Mapping[_Place, Collection[CreditRow]]
) -> Iterator[list[Clearing]]:
    """So many that the rows of one, old and new, fit into memory beside each other."""
    portion: list[Clearing] = []
    rows = 0
    for clearing in clearings:
        snapshot = clearing.snapshot
        weight = clearing.weight + len(credits.get((snapshot.hour, snapshot.model_id), ()))
        if portion and rows + weight > ROWS_AT_A_TIME:
            yield portion
            portion, rows = [], 0
        portion.append(clearing)
        rows += weight
    if portion:
        yield portion


def _number(conv_id: int, position: int) -> int:
    """One number for the two: a dictionary of tuples would take twice the memory."""
    return conv_id * _CREDITS_OF_A_CONVERSION + position


def _written(change: HourChange) -> Iterator[Removal]:
    """What the removals of the rows that the change writes would be called."""
    for snapshot in change.snapshots:
        yield Removal(RemovalKind.SNAPSHOT, snapshot_key(change.key, snapshot.key))
    for row in change.credits:
        yield Removal(RemovalKind.CREDIT, credit_key(change.key, row.model_id, row.conv_id, row.position))
