"""`models`: the attribution models of an account, without HTTP."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn, TypedDict, TypeVar, Unpack

import click

from stream.clock import unix_now
from stream.commands.authorship import actor_option, author_of, json_option, user_option
from stream.commands.dead_letters import escaped
from stream.commands.showing import add_row, listing, show, utc
from stream.config import read_settings
from stream.core.errors import Misconfigured
from stream.core.models import InvalidModel
from tables.sql.database import Database, open_database
from tables.sql.model_removal import ModelRemoval, delete_model
from tables.sql.model_store import (
    KEPT,
    NONE_ACTIVE,
    NONE_CAN_BE_COMPUTED,
    ModelChange,
    ModelEdit,
    ModelPlace,
    NewModel,
    create_model,
    list_models,
    update_model,
)
from tables.sql.models import StoredModel

_Result = TypeVar("_Result")

_MOST_IDS = 2**63 - 1


def with_database(work: Callable[[Database], Awaitable[_Result]]) -> _Result:
    """Raises Misconfigured for a model that cannot be: what was given on the command line is wrong."""

    async def run() -> _Result:
        database = open_database(read_settings().database_url)
        try:
            return await work(database)
        finally:
            await database.close()

    try:
        return asyncio.run(run())
    except InvalidModel as error:
        raise Misconfigured(escaped(str(error))) from error


def now() -> int:
    return int(unix_now())


class _Created(TypedDict):
    """Options of `create` as click hands them over."""

    user_id: int
    name: str
    type_name: str
    slug: str | None
    config: object
    is_default: bool


class _Edited(TypedDict):
    """Options of `update` that change something."""

    name: str | None
    new_slug: str | None
    type_name: str | None
    config: object
    is_default: bool | None
    is_active: bool | None


class ConfigType(click.ParamType):
    """The JSON text of a weighting config, parsed."""

    name = "json"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> object:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise click.BadParameter(f"this is not JSON: {error}", ctx, param) from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number of JSON")


def model_json(model: StoredModel) -> dict[str, object]:
    try:
        config = json.loads(model.config_text) if model.config_text.strip() else None
    except (ValueError, RecursionError):
        config = None
    return {
        "model_id": model.model_id,
        "user_id": model.user_id,
        "name": model.name,
        "slug": model.slug,
        "type": model.type_name,
        "config": config,
        "is_active": model.is_active,
        "is_default": model.is_default,
        "problem": model.problem or None,
        "created_at": model.created_at,
        "created_at_utc": utc(model.created_at),
        "updated_at": model.updated_at,
        "updated_at_utc": utc(model.updated_at),
    }


def notes_on(models: Sequence[StoredModel]) -> list[str]:
    active = [model for model in models if model.is_active]
    if not active:
        return [NONE_ACTIVE]
    notes = [f'"{model.slug}" (model {model.model_id}) is not computed: {model.problem}' for model in active]
    notes = [note for note, model in zip(notes, active, strict=True) if model.problem]
    return [*notes, NONE_CAN_BE_COMPUTED] if len(notes) == len(active) else notes


def _show_models(models: Sequence[StoredModel]) -> None:
    rows = listing("model", "slug", "name", "type", "config", "active", "default", "problem", numbers=["model"])
    for model in models:
        cells = [escaped(text) for text in (model.slug, model.name, model.type_name, model.config_text)]
        flags = ["yes" if flag else "no" for flag in (model.is_active, model.is_default)]
        add_row(rows, str(model.model_id), *cells, *flags, escaped(model.problem))
    show(rows)


def _tell(lines: Sequence[str]) -> None:
    for line in lines:
        click.echo(escaped(line))


def _tell_change(change: ModelChange, what: str, *, is_json: bool) -> None:
    if is_json:
        answer = {
            "is_changed": change.is_changed,
            "model": model_json(change.model),
            "default_model_id": change.default.model_id if change.default else None,
            "notes": change.notes,
        }
        click.echo(json.dumps(answer))
        return
    _tell([f'model {change.model.model_id} "{change.model.slug}" {what}', *change.notes])


@click.group(name="models")
def command() -> None:
    """List, create, update and delete the attribution models of an account."""


@command.command(name="list")
@user_option
@json_option
def list_command(user_id: int, is_json: bool) -> None:
    """All models, also inactive ones and those that cannot be computed.

    \b
    JSON: user_id, models [{model_id, user_id, name, slug, type, config, is_active, is_default, problem, created_at,
      created_at_utc, updated_at, updated_at_utc}], notes []
    """
    models = with_database(lambda database: list_models(database, user_id))
    notes = notes_on(models)
    if is_json:
        click.echo(json.dumps({"user_id": user_id, "models": [model_json(each) for each in models], "notes": notes}))
        return
    if models:
        _show_models(models)
    _tell(notes)


@command.command()
@user_option
@click.option("--name", required=True, help="1 to 255 characters.")
@click.option("--type", "type_name", required=True, help="As last_touch, time_decay or position_based.")
@click.option("--slug", help="Its short name; else one is made of the name.")
@click.option("--config", type=ConfigType(), help="JSON object with the parameters of the type.")
@click.option("--default", "is_default", is_flag=True, help="Make it the default, and active.")
@click.option("--inactive", "is_inactive", is_flag=True, help="Do not compute it yet.")
@actor_option
@json_option
def create(*, actor: str, is_json: bool, is_inactive: bool, **given: Unpack[_Created]) -> None:
    """Create a model. Workers compute it for open hours within seconds; "rebuild" does it for older ones.

    \b
    JSON: is_changed, model {as in "models list"}, default_model_id, notes []
    """
    new = NewModel(is_active=not is_inactive, **given)
    change = with_database(lambda database: create_model(database, new, author_of(actor), now=now()))
    _tell_change(change, "created", is_json=is_json)


def _place(user_id: int, slug: str | None, model_id: int | None) -> ModelPlace:
    if (slug is None) == (model_id is None):
        raise click.UsageError("name the model by --slug or by --model-id")
    return ModelPlace(user_id, model_id, slug or "")


@command.command()
@user_option
@click.option("--slug", help="Which model: its slug, or")
@click.option("--model-id", type=click.IntRange(1, _MOST_IDS), help="its id.")
@click.option("--name", help="1 to 255 characters; the slug stays.")
@click.option("--new-slug", help="Another slug.")
@click.option("--type", "type_name", help="As last_touch, time_decay or position_based.")
@click.option("--config", type=ConfigType(), default=KEPT, help="JSON object with the parameters of the type.")
@click.option("--default/--no-default", "is_default", default=None, help="Make it the default, or another one.")
@click.option("--active/--inactive", "is_active", default=None, help="Whether it is computed.")
@actor_option
@json_option
def update(
    *, user_id: int, slug: str | None, model_id: int | None, actor: str, is_json: bool, **given: Unpack[_Edited]
) -> None:
    """Change what is given; the rest stays. Where the default goes, another one is chosen and told.

    \b
    JSON: is_changed, model {as in "models list"}, default_model_id, notes []
    """
    place = _place(user_id, slug, model_id)
    edit = ModelEdit(
        name=given["name"],
        slug=given["new_slug"],
        type_name=given["type_name"],
        config=given["config"],
        is_default=given["is_default"],
        is_active=given["is_active"],
    )
    change = with_database(lambda database: update_model(database, place, edit, author_of(actor), now=now()))
    what = "updated" if change.is_changed else "is as it was: nothing was written"
    _tell_change(change, what, is_json=is_json)


@command.command()
@user_option
@click.option("--slug", help="Which model: its slug, or")
@click.option("--model-id", type=click.IntRange(1, _MOST_IDS), help="its id.")
@actor_option
@json_option
def delete(*, user_id: int, slug: str | None, model_id: int | None, actor: str, is_json: bool) -> None:
    """Delete a model with its snapshots and credits, hour by hour. One that was stopped half-way is run again.

    \b
    JSON: model {as it was, as in "models list"}, default_model_id, campaigns [], hours, notes []
    """
    place = _place(user_id, slug, model_id)

    def tell(line: str) -> None:
        if not is_json:
            click.echo(line)

    removal = with_database(lambda database: delete_model(database, place, author_of(actor), now=now, tell=tell))
    if is_json:
        click.echo(json.dumps(_removal_json(removal)))
        return
    _tell([f'model {removal.model.model_id} "{removal.model.slug}" deleted, with the rows of {removal.hours} hours'])
    if removal.campaigns:
        numbers = ", ".join(map(str, removal.campaigns))
        click.echo(f"campaigns that named it, and now use the default: {numbers}")
    _tell(removal.notes)


def _removal_json(removal: ModelRemoval) -> dict[str, object]:
    return {
        "model": model_json(removal.model),
        "default_model_id": removal.default.model_id if removal.default else None,
        "campaigns": removal.campaigns,
        "hours": removal.hours,
        "notes": removal.notes,
    }
