"""Multi-touch settings: 202_attribution_settings, which other hands write too, and their history of our own."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from stream.core.facts import Journey
from stream.core.toggles import Switchboard, Toggle, ToggleScope
from tables.sql.connections import Connection, Row
from tables.sql.inserts import whole_list
from tables.sql.models import text_of, whole
from tables.sql.selects import fetch_of_accounts, in_batches

_SETTINGS = "202_attribution_settings"
_HISTORY = "202_stream_toggles"
_COLUMNS = (
    "setting_id, user_id, scope_type, scope_id, model_id, multi_touch_enabled, multi_touch_enabled_at,"
    " multi_touch_disabled_at, effective_at, created_at, updated_at"
)
_SCOPES = {scope.value: scope for scope in ToggleScope}


class StoredSetting(NamedTuple):
    """A row of 202_attribution_settings. Of a new one `setting_id` is 0."""

    setting_id: int
    user_id: int
    scope_type: str
    scope_id: int | None
    model_id: int
    is_enabled: bool
    enabled_at: int | None
    disabled_at: int | None
    effective_at: int
    created_at: int
    updated_at: int

    @property
    def toggle(self) -> Toggle | None:
        """What it says, and since when; None for a scope that is never asked, or that names nothing."""
        scope = _SCOPES.get(self.scope_type.strip().lower())
        scope_id = 0 if scope is ToggleScope.GLOBAL else self.scope_id or 0
        if scope is None or (scope is not ToggleScope.GLOBAL and scope_id < 1):
            return None
        changed_at = self.enabled_at if self.is_enabled else self.disabled_at
        return Toggle(scope, scope_id, self.effective_at if changed_at is None else changed_at, self.is_enabled)


def _setting_of(row: Row) -> StoredSetting:
    setting_id, user_id, scope_type, scope_id, model_id, enabled, enabled_at, disabled_at, *times = row
    effective_at, created_at, updated_at = (whole(time) or 0 for time in times)
    is_enabled = whole(enabled) != 0  # NULL: the column's default, which is on
    return StoredSetting(
        setting_id,
        user_id,
        text_of(scope_type),
        whole(scope_id),
        whole(model_id) or 0,
        is_enabled,
        whole(enabled_at),
        whole(disabled_at),
        effective_at,
        created_at,
        updated_at,
    )


async def read_settings_rows(connection: Connection, user_ids: Collection[int]) -> list[StoredSetting]:
    rows = await fetch_of_accounts(connection, f"SELECT {_COLUMNS} FROM `{_SETTINGS}`", user_ids, order_by="setting_id")
    return [_setting_of(row) for row in rows]


async def read_history(connection: Connection, user_ids: Collection[int]) -> list[tuple[int, Toggle]]:
    """User id and entry."""
    rows = await fetch_of_accounts(
        connection, f"SELECT user_id, scope_type, scope_id, since, is_enabled FROM `{_HISTORY}`", user_ids
    )
    return [
        (user_id, Toggle(_SCOPES[scope], whole(scope_id) or 0, whole(since) or 0, bool(whole(is_enabled))))
        for user_id, scope, scope_id, since, is_enabled in rows
        if scope in _SCOPES
    ]


async def read_toggles(connection: Connection, user_ids: Collection[int]) -> Mapping[int, Sequence[Toggle]]:
    """Of those accounts that have any; two statements."""
    toggles: dict[int, set[Toggle]] = {}
    for user_id, toggle in await read_history(connection, user_ids):
        toggles.setdefault(user_id, set()).add(toggle)
    for setting in await read_settings_rows(connection, user_ids):
        if (derived := setting.toggle) is not None:
            toggles.setdefault(setting.user_id, set()).add(derived)
    return {user_id: sorted(found) for user_id, found in toggles.items()}


async def read_switchboards_with_off(connection: Connection) -> Mapping[int, Switchboard]:
    """Of those accounts where multi-touch is, or was, off somewhere."""
    rows = await connection.fetch(
        f"SELECT user_id FROM `{_SETTINGS}` WHERE multi_touch_enabled = 0"
        f" UNION SELECT user_id FROM `{_HISTORY}` WHERE is_enabled = 0"
    )
    toggles = await read_toggles(connection, {row[0] for row in rows})
    return {user_id: Switchboard(found) for user_id, found in toggles.items()}


async def with_shown_touches(connection: Connection, journeys: Sequence[Journey]) -> list[Journey]:
    """The journeys as 202_conversion_touchpoints shows them: without touches where multi-touch was off, or purged."""
    toggles = await read_toggles(connection, {each.conversion.user_id for each in journeys}) if journeys else {}
    switchboards = {user_id: Switchboard(found) for user_id, found in toggles.items()}
    return [
        each if _is_shown(each, switchboards.get(each.conversion.user_id)) else each._replace(touches=())
        for each in journeys
    ]


def _is_shown(journey: Journey, switchboard: Switchboard | None) -> bool:
    conversion = journey.conversion
    if journey.purged:
        return False
    return switchboard is None or switchboard.is_multi_touch_on(
        advertiser=journey.aff_network_id,
        campaign=conversion.campaign_id,
        conv_time=conversion.conv_time,
    )


async def replace_history(
    connection: Connection, user_id: int, scope: tuple[ToggleScope, int], entries: Mapping[int, bool]
) -> None:
    """Of one scope; `entries`: on or off by the time since when."""
    await connection.run(
        f"DELETE FROM `{_HISTORY}` WHERE user_id = ? AND scope_type = ? AND scope_id = ?",
        [user_id, scope[0].value, scope[1]],
    )
    for since, is_enabled in sorted(entries.items()):
        await connection.run(
            f"INSERT INTO `{_HISTORY}` (user_id, scope_type, scope_id, since, is_enabled) VALUES (?, ?, ?, ?, ?)",
            [user_id, scope[0].value, scope[1], since, int(is_enabled)],
        )


async def write_setting(connection: Connection, setting: StoredSetting) -> None:
    """Inserts one without id, overwrites another."""
    values = [*setting[1:5], int(setting.is_enabled), *setting[6:]]
    if setting.setting_id:
        await connection.run(
            f"UPDATE `{_SETTINGS}` SET user_id = ?, scope_type = ?, scope_id = ?, model_id = ?,"
            " multi_touch_enabled = ?, multi_touch_enabled_at = ?, multi_touch_disabled_at = ?, effective_at = ?,"
            " created_at = ?, updated_at = ? WHERE setting_id = ?",
            [*values, setting.setting_id],
        )
        return
    marks = ", ".join("?" * len(values))
    columns = _COLUMNS.removeprefix("setting_id, ")
    await connection.run(f"INSERT INTO `{_SETTINGS}` ({columns}) VALUES ({marks})", values)


async def delete_settings_rows(connection: Connection, setting_ids: Sequence[int]) -> None:
    for batch in in_batches(setting_ids):
        await connection.run(f"DELETE FROM `{_SETTINGS}` WHERE setting_id IN ({whole_list(batch)})")


async def forget_model(connection: Connection, user_id: int, model_id: int) -> None:
    """Settings outlive the model that they name (D41)."""
    await connection.run(
        f"UPDATE `{_SETTINGS}` SET model_id = 0 WHERE user_id = ? AND model_id = ?", [user_id, model_id]
    )
