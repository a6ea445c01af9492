"""Do the audit rows say who changed what, by which way, and what it was before? Page by page."""

import json
from collections.abc import AsyncGenerator, Collection
from typing import Any, NamedTuple

from tables.sql.audit import AuditAction
from tables.sql.connections import Connection
from tables.sql.inserts import whole_list

_RELATION = "202_attribution_audit"
_PAGE = 1000
_OURS = frozenset({"cli", "worker"})  # sources that our own programs write
# Of each action the rows that must be there, and are no empty object.
_NEEDED = {
    AuditAction.MODEL_CREATE.value: ("after",),
    AuditAction.MODEL_UPDATE.value: ("before", "after"),
    AuditAction.MODEL_DELETE.value: ("before",),
    AuditAction.SETTINGS_UPDATE.value: ("after",),  # before the first one there is none
}


class UnsaidNote(NamedTuple):
    """An audit row that lacks something. Ours: it bears a source of ours, which never leaves anything out."""

    text: str
    is_ours: bool


async def unsaid_notes(connection: Connection, users: Collection[int]) -> AsyncGenerator[UnsaidNote, None]:
    of_users = f" AND user_id IN ({whole_list(sorted(users))})" if users else ""
    behind = 0
    while True:
        rows = await connection.fetch(
            f"SELECT audit_id, user_id, action, metadata FROM `{_RELATION}` WHERE audit_id > ?"
            f" AND action IN ({', '.join('?' * len(_NEEDED))}){of_users} ORDER BY audit_id LIMIT {_PAGE}",
            [behind, *_NEEDED],
        )
        for audit_id, user_id, action, metadata in rows:
            said = _read(metadata)
            missing = _missing(action.lower(), said)  # MySQL finds it whatever its case
            if missing:
                text = f"user {user_id}: audit row {audit_id}, {action}: no {', no '.join(missing)}"
                yield UnsaidNote(text, str(said.get("source")) in _OURS)
        if len(rows) < _PAGE:
            return
        behind = rows[-1][0]


def _read(metadata: str | None) -> dict[str, Any]:
    try:
        said = json.loads(metadata or "{}")
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _missing(action: str, said: dict[str, Any]) -> list[str]:
    texts = [name for name in ("actor", "source") if not (isinstance(said.get(name), str) and said[name].strip())]
    return texts + [name for name in _NEEDED.get(action, ()) if not (isinstance(said.get(name), dict) and said[name])]
