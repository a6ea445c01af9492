"""A model goes for good, in steps that a killed command may repeat.

First it is switched off, so that nobody computes it; then its rows go hour by hour, each hour at once, and the worker
publishes that they went; the row itself goes last, so that until then the model can be named again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from stream.core.errors import StreamError
from stream.core.hours import HourKey, credit_key, snapshot_key
from stream.core.totals import Scope, ScopeKey
from tables.sql.accounts import behind_account
from tables.sql.audit import AuditAction, AuditEntry, Author, last_action, write_audit
from tables.sql.connections import Connection, Row
from tables.sql.database import Database
from tables.sql.inserts import Insert, text_literal, whole_list
from tables.sql.model_store import (
    ModelPlace,
    as_audited,
    found_model,
    settle_default,
    what_was_chosen,
    write_settled,
)
from tables.sql.models import StoredModel, delete_model_row, read_models
from tables.sql.selects import in_batches
from tables.sql.toggles import forget_model

_SCOPES = frozenset(scope.value for scope in Scope)


class ModelRevived(StreamError):
    """Somebody switched the model on again while it was being deleted."""


@dataclass(frozen=True, slots=True)
class ModelRemoval:
    """What came of it."""

    model: StoredModel  # as it was found
    default: StoredModel | None  # of the account, afterwards
    campaigns: Sequence[int]  # that named it, and now name none
    notes: Sequence[str]
    hours: int = 0  # from which rows were removed


class _Removed(NamedTuple):
    """A row of 202_stream_removals."""

    hour: HourKey
    kind: str
    record_key: str


def _parameters(removed: _Removed) -> Row:
    return (removed.hour.user_id, removed.hour.date_hour, removed.kind, removed.record_key)


def _literal(removed: _Removed) -> str:
    user_id, date_hour, kind, record_key = _parameters(removed)
    return f"({user_id},{date_hour},{text_literal(kind)},{text_literal(record_key)})"


_INSERT = Insert("202_stream_removals", ("user_id", "date_hour", "kind", "record_key"), _literal, _parameters)


async def delete_model(
    database: Database,
    place: ModelPlace,
    author: Author,
    *,
    now: Callable[[], int],
    tell: Callable[[str], object] = lambda _: None,
) -> ModelRemoval:
    """Raises UnknownModel, or ModelRevived with the model still there. `tell` hears of each hour that is done."""
    started = now()

    async def switch_off(connection: Connection) -> ModelRemoval:
        return await _switch_off(connection, place, author, now=started)

    removal = await behind_account(database, place.user_id, switch_off, now=started)
    done = 0
    while not await _row_is_gone(database, removal.model, now=now()):
        hours = await _hours_of(database, removal.model.model_id)
        for number, date_hour in enumerate(hours, 1):
            await _remove_hour(database, removal.model, date_hour, now=now())
            tell(f"hour {date_hour} ({number} of {len(hours)}): snapshots and credits removed")
        done += len(hours)
    return replace(removal, hours=done)


async def _switch_off(connection: Connection, place: ModelPlace, author: Author, *, now: int) -> ModelRemoval:
    before = await read_models(connection, place.user_id)
    model = found_model(before, place)
    off = model._replace(is_active=False, is_default=False)
    settled = settle_default([off if each is model else each for each in before], before=before)
    await write_settled(connection, before, settled, now=now)
    campaigns = await _forget_in_campaigns(connection, model)
    await forget_model(connection, model.user_id, model.model_id)
    is_repeated = off == model and await last_action(connection, model.model_id) == AuditAction.MODEL_DELETE
    if not is_repeated or campaigns:
        entry = AuditEntry(
            user_id=model.user_id,
            model_id=model.model_id,
            action=AuditAction.MODEL_DELETE,
            before=as_audited(model),
            after=None,
            also=what_was_chosen(before, settled) | {"campaigns": campaigns},
        )
        await write_audit(connection, entry, author, now=now)
    return ModelRemoval(model, settled.default, campaigns, settled.notes)


async def _forget_in_campaigns(connection: Connection, model: StoredModel) -> list[int]:
    """Campaigns that the model is the one of, and then no longer."""
    place = "FROM `202_aff_campaigns` WHERE user_id = ? AND attribution_model_id = ?"
    rows = await connection.fetch(f"SELECT aff_campaign_id {place}", [model.user_id, model.model_id])
    campaigns = sorted(row[0] for row in rows)
    for batch in in_batches(campaigns):
        await connection.run(
            "UPDATE `202_aff_campaigns` SET attribution_model_id = NULL"
            f" WHERE aff_campaign_id IN ({whole_list(batch)}) AND user_id = ? AND attribution_model_id = ?",
            [model.user_id, model.model_id],
        )
    return campaigns


async def _hours_of(database: Database, model_id: int) -> list[int]:
    async with database.reading() as connection:
        rows = await connection.fetch(
            "SELECT DISTINCT date_hour FROM `202_attribution_snapshots` WHERE model_id = ? ORDER BY date_hour",
            [model_id],
        )
    return [row[0] for row in rows]


async def _remove_hour(database: Database, model: StoredModel, date_hour: int, *, now: int) -> None:
    async def work(connection: Connection) -> None:
        await _remove(connection, HourKey(model.user_id, date_hour), model.model_id)

    await behind_account(database, model.user_id, work, now=now)


async def _remove(connection: Connection, hour: HourKey, model_id: int) -> None:
    snapshots = await connection.fetch(
        "SELECT snapshot_id, scope_type, COALESCE(scope_id, 0) FROM `202_attribution_snapshots`"
        " WHERE model_id = ? AND date_hour = ?",
        [model_id, hour.date_hour],
    )
    removed = {
        _Removed(hour, "snapshot", snapshot_key(hour, ScopeKey(model_id, Scope(scope), scope_id)))
        for _, scope, scope_id in snapshots
        if scope in _SCOPES
    }
    matched = await connection.run(
        # Computed with no configuration that there could be: with the model switched on again the hour is restated.
        "UPDATE `202_stream_hours` SET revision = revision + 1, configuration = 0, is_settled = 0"
        " WHERE user_id = ? AND date_hour = ?",
        list(hour),
    )
    for batch in in_batches([row[0] for row in snapshots]):
        place = f"FROM `202_attribution_touchpoints` WHERE snapshot_id IN ({whole_list(batch)})"
        credits = await connection.fetch(f"SELECT conv_id, position {place}")
        removed |= {_Removed(hour, "credit", credit_key(hour, model_id, *row)) for row in credits}
        await connection.run(f"DELETE {place}")
        await connection.run(f"DELETE FROM `202_attribution_snapshots` WHERE snapshot_id IN ({whole_list(batch)})")
    if matched:  # an hour that is not ours was never published
        await connection.insert(_INSERT, sorted(removed))


async def _row_is_gone(database: Database, model: StoredModel, *, now: int) -> bool:
    """Deletes the row once nothing else of the model is left. Raises ModelRevived."""

    async def work(connection: Connection) -> bool:
        standing = [each for each in await read_models(connection, model.user_id) if each.model_id == model.model_id]
        if any(each.is_active for each in standing):
            raise ModelRevived(
                f"model {model.model_id} was switched on again while it was being deleted; it stays",
                hint="delete it once more if it is to go",
            )
        left = await connection.fetch(
            "SELECT 1 FROM `202_attribution_snapshots` WHERE model_id = ? LIMIT 1", [model.model_id]
        )
        if not left:
            await delete_model_row(connection, model.model_id)
        return not left

    return await behind_account(database, model.user_id, work, now=now)
