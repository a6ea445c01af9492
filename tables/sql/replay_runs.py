"""Replays in 202_stream_runs: one at a time for the same arguments, and one that was broken off can go on."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import orjson

from stream.core.errors import StartRefused
from tables.sql import progress as progress_rows
from tables.sql.connections import Connection
from tables.sql.facts import JOURNEYS_GROUP
from tables.sql.runs import RunKind, RunState

_RUNS = "202_stream_runs"
_PLACES = "202_stream_run_places"
_LATEST = 2**32 - 1
_FRESH_S = 86_400  # so long after its last sign of life a run is taken up without being named
_SELECT = "SELECT run_id, arguments, state, owner, lease_until, started_at, finished_at"

_decode_arguments = msgspec.json.Decoder(dict[str, object]).decode


class ReplayRun(NamedTuple):
    """A row; `arguments` say what it is about."""

    run_id: int
    arguments: Mapping[str, object]
    state: RunState
    owner: str
    lease_until: int
    seen_at: int  # its last sign of life


async def find_replay(connection: Connection, *, run_id: int) -> ReplayRun | None:
    rows = await connection.fetch(
        f"{_SELECT} FROM `{_RUNS}` WHERE kind = ? AND run_id = ?",
        [RunKind.REPLAY.value, run_id],
    )
    return _run_of(rows[0]) if rows else None


async def claim_replay(
    connection: Connection,
    arguments: Mapping[str, object],
    *,
    owner: str,
    now: int,
    lease: int,
    resumed: int | None = None,
) -> tuple[ReplayRun, bool]:
    """Ours, and whether it goes on with one that was broken off; or, with another owner, the one that is at work.

    `arguments` hold "start" and "end". `resumed` names the run to go on with; else it is the last one of the same
    arguments, unless that has finished, or was left for a day: what is stored, purged and cut since then is a replay
    of its own. Raises StartRefused where the run that is named read another log.
    """
    # Claims follow one another behind a lock that is there anyway.
    await progress_rows.lock_partition(connection, JOURNEYS_GROUP, 0, now=now)
    same = await _same_replays(connection, arguments)
    for run in same:
        if run.state is RunState.RUNNING and run.lease_until > now and run.owner != owner:
            return run, False
    left = _named(same, resumed) if resumed is not None else [run for run in same[:1] if run.seen_at > now - _FRESH_S]
    if left and left[0].state is not RunState.FINISHED:
        await connection.run(
            f"UPDATE `{_RUNS}` SET state = ?, owner = ?, lease_until = ?, error = NULL, finished_at = NULL"
            " WHERE run_id = ?",
            [RunState.RUNNING.value, owner, now + lease, left[0].run_id],
        )
        return left[0]._replace(owner=owner, state=RunState.RUNNING), True
    await connection.run(
        f"INSERT INTO `{_RUNS}` (kind, user_id, range_start, range_end, state, owner, lease_until, arguments,"
        " started_at) VALUES (?, 0, ?, ?, ?, ?, ?, ?, ?)",
        [RunKind.REPLAY.value, *_range(arguments), RunState.RUNNING.value, owner, now + lease, _text(arguments), now],
    )
    return (await _same_replays(connection, arguments))[0], False


def _named(same: Sequence[ReplayRun], run_id: int) -> Sequence[ReplayRun]:
    found = [run for run in same if run.run_id == run_id]
    if not found:
        raise StartRefused(
            f"replay {run_id} has read another log: its topics were made anew, or have other partitions now",
            hint="give its users and its range instead of --resume, and it begins anew",
        )
    return found


async def _same_replays(connection: Connection, arguments: Mapping[str, object]) -> list[ReplayRun]:
    """Newest first."""
    rows = await connection.fetch(
        f"{_SELECT} FROM `{_RUNS}` WHERE kind = ? AND user_id = 0"
        " AND range_start = ? AND range_end = ? ORDER BY run_id DESC",
        [RunKind.REPLAY.value, *_range(arguments)],
    )
    text = _text(arguments)
    return [run for run in map(_run_of, rows) if _text(run.arguments) == text]


def _range(arguments: Mapping[str, object]) -> tuple[object, object]:
    return arguments["start"], arguments["end"]


async def renew_replay(connection: Connection, run: ReplayRun, *, now: int, lease: int) -> bool:
    """False: it is not its owner's any more, who must stop."""
    matched = await connection.run(
        f"UPDATE `{_RUNS}` SET lease_until = ? WHERE run_id = ? AND owner = ? AND state = ?",
        [min(_LATEST, now + lease), run.run_id, run.owner, RunState.RUNNING.value],
    )
    return matched == 1


async def end_replay(connection: Connection, run: ReplayRun, state: RunState, *, now: int, error: str = "") -> None:
    """Where it came to is forgotten with a run that has finished; of another it is what the next one goes on from."""
    matched = await connection.run(
        f"UPDATE `{_RUNS}` SET state = ?, error = ?, finished_at = ?, lease_until = ?"
        " WHERE run_id = ? AND owner = ? AND state = ?",
        [state.value, error or None, now, now, run.run_id, run.owner, RunState.RUNNING.value],
    )
    if matched and state is RunState.FINISHED:
        await connection.run(f"DELETE FROM `{_PLACES}` WHERE run_id = ?", [run.run_id])


async def forget_places(connection: Connection) -> None:
    """Every run that was broken off begins anew."""
    await connection.run(f"DELETE FROM `{_PLACES}`")


def _text(arguments: Mapping[str, object]) -> str:
    return orjson.dumps(arguments, option=orjson.OPT_SORT_KEYS).decode()


def _run_of(row: tuple[object, ...]) -> ReplayRun:
    run_id, arguments, state, owner, *times = row
    assert isinstance(run_id, int)
    lease_until, *others = [time if isinstance(time, int) else 0 for time in times]
    said = _decode_arguments(str(arguments)) if arguments else {}
    return ReplayRun(run_id, said, RunState(str(state)), str(owner), lease_until, max(lease_until, *others))
