"""Multi-touch on or off: the setting, its history, its audit row, and then the touchpoints that follow from it."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from stream.core.toggles import Toggle, ToggleScope
from tables.sql.accounts import behind_account
from tables.sql.audit import AuditAction, AuditEntry, Author, write_audit
from tables.sql.connections import Connection
from tables.sql.database import Database
from tables.sql.models import read_models
from tables.sql.toggles import (
    StoredSetting,
    delete_settings_rows,
    read_history,
    read_settings_rows,
    replace_history,
    write_setting,
)
from tables.sql.touchpoint_fitting import NOTHING_FITTED, Fitted, FittingPlace, fit_touchpoints, lock_journeys


class Switch(NamedTuple):
    """What the caller wants. `scope_id` 0: global. `since`: unix seconds of conversions, included."""

    user_id: int
    scope: ToggleScope
    scope_id: int
    is_enabled: bool
    since: int


class SettingList(NamedTuple):
    """Of one account: the rows as they stand, and all that they and the history say."""

    rows: Sequence[StoredSetting]
    history: Sequence[Toggle]


@dataclass(frozen=True, slots=True)
class SettingChange:
    """What came of it."""

    setting: StoredSetting
    is_changed: bool
    since: int  # of the state that stands; conversions before it are not concerned
    superseded: Sequence[Toggle]  # later entries of the scope, which count no longer
    fitted: Fitted = NOTHING_FITTED


class _Standing(NamedTuple):
    rows: Sequence[StoredSetting]  # of the scope, by id; other hands may have left several
    entries: dict[int, bool]  # of the scope, by the time since when


async def list_settings(database: Database, user_id: int) -> SettingList:
    async with database.reading() as connection:
        rows = await read_settings_rows(connection, [user_id])
        history = [toggle for _, toggle in await read_history(connection, [user_id])]
    derived = [each.toggle for each in rows if each.toggle is not None]
    return SettingList(rows, sorted({*history, *derived}))


async def set_multi_touch(
    database: Database,
    switch: Switch,
    author: Author,
    *,
    now: Callable[[], int],
    evict: Callable[[Sequence[int]], Awaitable[object]],
    tell: Callable[[str], object] = lambda _: None,
) -> SettingChange:
    """From `since` on, whatever was said before of later times. `evict` gets the conversions whose touchpoints changed.

    What is so already is not written again, but touchpoints are looked at again: a command that was killed is repeated.
    """
    written = now()

    async def work(connection: Connection) -> SettingChange:
        await lock_journeys(connection)  # a chunk under way may have read what counted before
        return await _set(connection, switch, author, now=written)

    change = await behind_account(database, switch.user_id, work, now=written)
    place = FittingPlace(switch.user_id, switch.scope, switch.scope_id, change.since)
    fitted = await fit_touchpoints(database, place, now=now, evict=evict, tell=tell)
    return replace(change, fitted=fitted)


async def _set(connection: Connection, switch: Switch, author: Author, *, now: int) -> SettingChange:
    standing = await _standing(connection, switch)
    earlier = {since: is_on for since, is_on in standing.entries.items() if since <= switch.since}
    later = {since: is_on for since, is_on in standing.entries.items() if since > switch.since}
    is_so = bool(earlier) and earlier[max(earlier)] == switch.is_enabled
    if is_so and not later and [row.is_enabled for row in standing.rows] == [switch.is_enabled]:
        return SettingChange(standing.rows[0], False, max(earlier), ())  # noqa: FBT003
    superseded = [Toggle(switch.scope, switch.scope_id, since, is_on) for since, is_on in sorted(later.items())]
    entries = earlier | {switch.since: switch.is_enabled}
    await replace_history(connection, switch.user_id, (switch.scope, switch.scope_id), entries)
    before = standing.rows[-1] if standing.rows else None
    setting = await _setting_of(connection, switch, before, now=now)
    await delete_settings_rows(connection, [row.setting_id for row in standing.rows[:-1]])
    await write_setting(connection, setting)
    entry = AuditEntry(
        user_id=switch.user_id,
        model_id=setting.model_id or None,
        action=AuditAction.SETTINGS_UPDATE,
        before=_as_audited(before) if before else None,
        after=_as_audited(setting),
        also={"since": switch.since, "superseded": [[each.since, each.is_enabled] for each in superseded]},
    )
    await write_audit(connection, entry, author, now=now)
    return SettingChange(setting, True, switch.since, superseded)  # noqa: FBT003


async def _standing(connection: Connection, switch: Switch) -> _Standing:
    """What the rows say of times before they were overwritten goes into the history, so nothing is forgotten."""
    rows = [
        row
        for row in await read_settings_rows(connection, [switch.user_id])
        if row.toggle is not None and row.toggle[:2] == (switch.scope, switch.scope_id)
    ]
    toggles = [row.toggle for row in rows if row.toggle is not None]
    toggles += [toggle for _, toggle in await read_history(connection, [switch.user_id])]
    entries: dict[int, bool] = {}
    for toggle in toggles:
        if toggle[:2] == (switch.scope, switch.scope_id):
            # Of two at one second off counts, as everywhere.
            entries[toggle.since] = toggle.is_enabled and entries.get(toggle.since, True)
    return _Standing(rows, entries)


async def _setting_of(
    connection: Connection, switch: Switch, before: StoredSetting | None, *, now: int
) -> StoredSetting:
    """The row as Prosper202 would write it, but with the time that was asked for instead of now."""
    if before is None:
        before = StoredSetting(
            0,
            switch.user_id,
            switch.scope.value,
            switch.scope_id or None,
            await _any_model(connection, switch.user_id),
            switch.is_enabled,
            None,
            None,
            switch.since,
            now,
            now,
        )
    return before._replace(
        is_enabled=switch.is_enabled,
        enabled_at=switch.since if switch.is_enabled else before.enabled_at,
        disabled_at=None if switch.is_enabled else switch.since,
        effective_at=switch.since,
        updated_at=now,
    )


async def _any_model(connection: Connection, user_id: int) -> int:
    """The default, else the first active one, else 0: old readers expect a model there."""
    active = [model for model in await read_models(connection, user_id) if model.is_active]
    first = min(active, key=lambda model: (not model.is_default, model.model_id), default=None)
    return first.model_id if first else 0


def _as_audited(setting: StoredSetting) -> dict[str, object]:
    return {
        "scope": setting.scope_type,
        "scope_id": setting.scope_id,
        "model_id": setting.model_id,
        "multi_touch_enabled": setting.is_enabled,
        "multi_touch_enabled_at": setting.enabled_at,
        "multi_touch_disabled_at": setting.disabled_at,
        "effective_at": setting.effective_at,
    }
