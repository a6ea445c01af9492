"""202_attribution_audit: who changed which model or setting, and what it was before."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from tables.sql.connections import Connection

_RELATION = "202_attribution_audit"


class AuditAction(StrEnum):
    """Values of 202_attribution_audit.action that we write."""

    MODEL_CREATE = "model_create"
    MODEL_UPDATE = "model_update"
    MODEL_DELETE = "model_delete"
    SETTINGS_UPDATE = "settings_update"
    SNAPSHOT_REBUILD = "snapshot_rebuild"


class Author(NamedTuple):
    """Who makes a change, and by which way."""

    actor: str
    source: str  # "cli", "worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One change. `before` and `after` are the row as JSON, None where there is none."""

    user_id: int
    model_id: int | None
    action: AuditAction
    before: Mapping[str, object] | None
    after: Mapping[str, object] | None
    also: Mapping[str, object] = field(default_factory=dict)  # what followed from it


async def write_audit(connection: Connection, entry: AuditEntry, author: Author, *, now: int) -> None:
    metadata = {
        "actor": author.actor,
        "source": author.source,
        "before": entry.before,
        "after": entry.after,
        **entry.also,
    }
    await connection.run(
        f"INSERT INTO `{_RELATION}` (user_id, model_id, action, metadata, created_at) VALUES (?, ?, ?, ?, ?)",
        [entry.user_id, entry.model_id, entry.action.value, json.dumps(metadata), now],
    )


async def last_action(connection: Connection, model_id: int) -> str:
    """What was done to a model last; '' if nothing."""
    rows = await connection.fetch(
        f"SELECT action FROM `{_RELATION}` WHERE model_id = ? AND action LIKE ? ORDER BY audit_id DESC LIMIT 1",
        [model_id, "model_%"],
    )
    return str(rows[0][0]) if rows else ""


async def had_models(connection: Connection, user_id: int) -> bool:
    """Was a model of the account ever made, changed or deleted by a hand that wrote it down?"""
    rows = await connection.fetch(
        f"SELECT 1 FROM `{_RELATION}` WHERE user_id = ? AND action LIKE ? LIMIT 1", [user_id, "model_%"]
    )
    return bool(rows)
