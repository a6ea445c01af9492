"""`settings`: multi-touch on or off, for an account, an advertiser or a campaign."""

import json
from collections.abc import Sequence

import click

from stream.agents.caching import journey_cache
from stream.commands.authorship import MOST_USERS, actor_option, author_of, json_option, user_option
from stream.commands.models import now, with_database
from stream.commands.showing import add_row, listing, show, utc
from stream.commands.times import TimeType
from stream.config import read_settings
from stream.core.hours import HOUR_SECONDS
from stream.core.toggles import Toggle, ToggleScope
from tables.sql.database import Database
from tables.sql.hours import final_hours_since
from tables.sql.setting_store import SettingChange, SettingList, Switch, list_settings, set_multi_touch
from tables.sql.toggles import StoredSetting

_NEVER_ASKED = ("account", "adgroup", "landing_page", "traffic_source")


class ScopeType(click.ParamType):
    """A scope whose setting counts."""

    name = "scope"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> ToggleScope:
        text = str(value).lower()
        if text in _NEVER_ASKED:
            raise click.BadParameter(
                f'a setting of scope "{text}" has never had an effect: whether a conversion is multi-touch is decided'
                " by its campaign, its advertiser, and for all by global",
                ctx,
                param,
            )
        try:
            return ToggleScope(text)
        except ValueError:
            raise click.BadParameter(f'"{text}" is none of {", ".join(ToggleScope)}', ctx, param) from None


def toggle_json(toggle: Toggle) -> dict[str, object]:
    return {
        "scope": toggle.scope.value,
        "scope_id": toggle.scope_id or None,
        "since": toggle.since,
        "since_utc": utc(toggle.since),
        "multi_touch": toggle.is_enabled,
    }


def _row_json(row: StoredSetting) -> dict[str, object]:
    return {
        "setting_id": row.setting_id,
        "scope": row.scope_type,
        "scope_id": row.scope_id,
        "model_id": row.model_id,
        "multi_touch": row.is_enabled,
        "multi_touch_enabled_at": row.enabled_at,
        "multi_touch_disabled_at": row.disabled_at,
        "effective_at": row.effective_at,
        "has_effect": row.toggle is not None,
    }


def _show_settings(found: SettingList) -> None:
    rows = listing("scope", "id", "multi-touch", "since", "unix", numbers=["id", "unix"])
    for each in found.history:
        state = "on" if each.is_enabled else "off"
        add_row(rows, each.scope.value, str(each.scope_id or ""), state, utc(each.since) or "", str(each.since))
    if found.history:
        show(rows)
    else:
        click.echo("no settings: multi-touch is on for all conversions")
    unasked = [row for row in found.rows if row.toggle is None]
    if unasked:
        click.echo(f"{len(unasked)} rows are of scopes that have no effect")


@click.group(name="settings")
def command() -> None:
    """List settings and switch multi-touch on or off, by the time of the conversion."""


@command.command(name="list")
@user_option
@json_option
def list_command(user_id: int, is_json: bool) -> None:
    """What was set, by scope and time. A campaign's setting counts before its advertiser's, that before the global one.

    \b
    JSON: user_id, toggles [{scope, scope_id, since, since_utc, multi_touch}],
      rows [{setting_id, scope, scope_id, model_id, multi_touch, multi_touch_enabled_at, multi_touch_disabled_at,
        effective_at, has_effect}]
    """
    found = with_database(lambda database: list_settings(database, user_id))
    if is_json:
        answer = {
            "user_id": user_id,
            "toggles": [toggle_json(each) for each in found.history],
            "rows": [_row_json(row) for row in found.rows],
        }
        click.echo(json.dumps(answer))
        return
    _show_settings(found)


@command.command(name="set")
@user_option
@click.option("--scope", type=ScopeType(), required=True, metavar="global|advertiser|campaign", help="Of what.")
@click.option("--id", "scope_id", type=click.IntRange(1, MOST_USERS), help="Of the advertiser or campaign.")
@click.option("--multi-touch", "state", type=click.Choice(["on", "off"]), required=True, help="The setting.")
@click.option("--since", type=TimeType(), help="For conversions from then on: unix seconds or ISO 8601; else now.")
@actor_option
@json_option
def set_command(
    *,
    user_id: int,
    scope: ToggleScope,
    scope_id: int | None,
    state: str,
    since: int | None,
    actor: str,
    is_json: bool,
) -> None:
    """Switch multi-touch on or off, and make the touchpoints of stored conversions fit.

    Off, a conversion has no touchpoints, and earns as a journey of its converting click alone. Later entries of the
    scope count no longer. A command that was stopped half-way is run again. Credits of open hours follow by themselves,
    those of final hours with `rebuild`.

    \b
    JSON: is_changed, setting {as in "settings list"}, since, since_utc, superseded [{as toggles in "settings list"}],
      conversions {looked_at, hidden, restored}, final_hours (to be rebuilt)
    """
    if (scope is ToggleScope.GLOBAL) != (scope_id is None):
        raise click.UsageError("--id goes with advertiser and campaign, which need it")
    switch = Switch(user_id, scope, scope_id or 0, state == "on", now() if since is None else since)
    change, final = with_database(lambda database: _set(database, switch, actor, is_json=is_json))
    if is_json:
        click.echo(json.dumps(_change_json(change) | {"final_hours": len(final)}))
        return
    verb = "is now" if change.is_changed else "was already"
    click.echo(f"multi-touch {verb} {state} for conversions since {utc(change.since)} ({change.since})")
    for each in change.superseded:
        click.echo(f"counts no longer: {'on' if each.is_enabled else 'off'} since {utc(each.since)} ({each.since})")
    fitted = change.fitted
    click.echo(f"touchpoints: {fitted.hidden} conversions hidden, {fitted.restored} restored")
    if final:
        click.echo(
            f"{len(final):,} hours are final: their credits follow with"
            f" rebuild --user {user_id} --start {final[0]} --end {final[-1] + HOUR_SECONDS}"
        )


async def _set(database: Database, switch: Switch, actor: str, *, is_json: bool) -> tuple[SettingChange, Sequence[int]]:
    """And the final hours that it concerns, which wait for a rebuild."""
    cache = journey_cache(read_settings())

    async def evict(conv_ids: Sequence[int]) -> None:
        if failed := await cache.delete(conv_ids):
            click.echo(f"warning: {failed} conversions may still have an entry in the cache", err=True)

    def tell(line: str) -> None:
        if not is_json:
            click.echo(line)

    try:
        change = await set_multi_touch(database, switch, author_of(actor), now=now, evict=evict, tell=tell)
        async with database.reading() as connection:
            return change, await final_hours_since(connection, switch.user_id, change.since)
    finally:
        await cache.close()


def _change_json(change: SettingChange) -> dict[str, object]:
    return {
        "is_changed": change.is_changed,
        "setting": _row_json(change.setting),
        "since": change.since,
        "since_utc": utc(change.since),
        "superseded": [toggle_json(each) for each in change.superseded],
        "conversions": change.fitted._asdict(),
    }
