"""202_stream_runs: what was run by hand over a window of an account, by whom, and how it ended.

A run holds its window by a lease, which it renews while it works. Claims of one account follow one another, behind the
lock of its row: of two at once one gets the window, and the other is told of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from tables.sql.connections import Connection, Row
from tables.sql.hours import has_uncredited

_RELATION = "202_stream_runs"
_COLUMNS = (
    "run_id, kind, user_id, range_start, range_end, configuration, state, owner, lease_until, hours_done, hours_total,"
    " error, started_at, finished_at"
)
_OF_WINDOW = "kind = ? AND user_id = ? AND range_start = ? AND range_end = ?"
_LEASE_RAN_OUT = "the lease ran out: the process was killed, or could not reach the database"


class RunKind(StrEnum):
    """Values of 202_stream_runs.kind."""

    REBUILD = "rebuild"
    REPLAY = "replay"


class RunState(StrEnum):
    """Values of 202_stream_runs.state."""

    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"


class Window(NamedTuple):
    """What is run for which hours of an account; [start, end), unix seconds."""

    kind: RunKind
    user_id: int
    start: int
    end: int


class Run(NamedTuple):
    """A row."""

    run_id: int
    window: Window
    configuration: int
    state: RunState
    owner: str
    lease_until: int
    hours_done: int
    hours_total: int
    error: str
    started_at: int
    finished_at: int | None


@dataclass(frozen=True, slots=True)
class Claim:
    """Ours: `run` is new. Else it is what stands in the way: another's that is running, or one that has finished."""

    is_ours: bool
    run: Run


async def claim_run(
    connection: Connection,
    window: Window,
    *,
    configuration: int,
    owner: str,
    now: int,
    lease: int,
    is_forced: bool = False,
) -> Claim:
    """The caller holds the lock of the account. An owner is one process; `lease` in seconds.

    A run that has finished with this configuration is not done again, unless forced, where it began after the end of
    the window and all that counts there is credited. One whose lease has run out is written down as failed, and this
    one takes its place.
    """
    runs = await list_runs(connection, window)
    running = [run for run in runs if run.state is RunState.RUNNING]
    for run in running:
        if run.lease_until > now:
            return Claim(is_ours=False, run=run)
    finished = next((run for run in runs if run.state is RunState.FINISHED), None)
    if finished is not None and not is_forced and await _stands(connection, finished, configuration):
        return Claim(is_ours=False, run=finished)
    for run in running:
        await connection.run(
            f"UPDATE `{_RELATION}` SET state = ?, error = ?, finished_at = ? WHERE run_id = ?",
            [RunState.FAILED.value, _LEASE_RAN_OUT, now, run.run_id],
        )
    await connection.run(
        f"INSERT INTO `{_RELATION}` (kind, user_id, range_start, range_end, configuration, state, owner, lease_until,"
        " started_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [*_values(window), configuration, RunState.RUNNING.value, owner, now + lease, now],
    )
    return Claim(is_ours=True, run=(await list_runs(connection, window))[0])


async def _stands(connection: Connection, finished: Run, configuration: int) -> bool:
    """Is nothing new to be expected of doing it again?"""
    _, user_id, start, end = finished.window
    # What comes into an hour that is not over is no news to anybody, and is to be rebuilt all the same.
    if finished.configuration != configuration or finished.started_at < end:
        return False
    return not await has_uncredited(connection, user_id, start=start, end=end)


async def renew_run(
    connection: Connection, run: Run, *, now: int, lease: int, hours_done: int, hours_total: int
) -> bool:
    """False: the run is not its owner's any more, who must stop."""
    matched = await connection.run(
        f"UPDATE `{_RELATION}` SET hours_done = ?, hours_total = ?, lease_until = ?"
        " WHERE run_id = ? AND owner = ? AND state = ?",
        [hours_done, hours_total, now + lease, run.run_id, run.owner, RunState.RUNNING.value],
    )
    return matched == 1


async def finish_run(connection: Connection, run: Run, state: RunState, *, now: int, error: str = "") -> bool:
    """False: it was not its owner's any more, and nothing is written."""
    matched = await connection.run(
        f"UPDATE `{_RELATION}` SET state = ?, error = ?, finished_at = ?, lease_until = ?"
        " WHERE run_id = ? AND owner = ? AND state = ?",
        [state.value, error or None, now, now, run.run_id, run.owner, RunState.RUNNING.value],
    )
    return matched == 1


async def list_runs(connection: Connection, window: Window) -> Sequence[Run]:
    """Of exactly this window, newest first."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM `{_RELATION}` WHERE {_OF_WINDOW} ORDER BY run_id DESC", _values(window)
    )
    return [_run_of(row) for row in rows]


def _values(window: Window) -> list[object]:
    return [window.kind.value, *window[1:]]


def _run_of(row: Row) -> Run:
    run_id, kind, user_id, start, end, configuration, state, owner, lease, done, total, error, *times = row
    window = Window(RunKind(kind), user_id, start, end)
    started_at, finished_at = times
    return Run(
        run_id,
        window,
        configuration,
        RunState(state),
        owner,
        lease,
        done,
        total,
        error or "",
        started_at,
        finished_at,
    )
