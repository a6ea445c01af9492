"""Models of an account: each change is one transaction behind the account's lock, with its audit row.

An account that has an active model has exactly one default after each change. What was chosen for the caller is told
in `notes`, and stands in the audit row.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from stream.core.configuration import ModelRow
from stream.core.model_definitions import (
    Candidate,
    checked_name,
    checked_slug,
    config_text,
    default_among,
    slugs_for,
)
from stream.core.models import InvalidModel, ModelType, model_type_of
from stream.core.toggles import Toggle
from tables.sql.accounts import behind_account
from tables.sql.audit import AuditAction, AuditEntry, Author, had_models, write_audit
from tables.sql.connections import Connection
from tables.sql.database import Database
from tables.sql.errors import DuplicateKey
from tables.sql.models import StoredModel, insert_model, read_model_rows, read_models, update_models
from tables.sql.toggles import read_toggles

KEPT: Final = object()  # a config that an edit leaves as it is

_SEED = ("Last Touch", "last-touch")
WORKER = Author("touchstream", "worker")


class UnknownModel(InvalidModel):
    """The account has no such model."""


class SlugTaken(InvalidModel):
    """Another model of the account has the slug."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewModel:
    """What the caller wants; without a slug one is made of the name. `config` as read from JSON."""

    user_id: int
    name: str
    type_name: str
    slug: str | None = None
    config: object = None
    is_default: bool = False
    is_active: bool = True


class ModelPlace(NamedTuple):
    """A model by its id, or, if that is None, by its slug."""

    user_id: int
    model_id: int | None = None
    slug: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEdit:
    """None: stays as it is."""

    name: str | None = None
    slug: str | None = None
    type_name: str | None = None
    config: object = KEPT
    is_default: bool | None = None
    is_active: bool | None = None


@dataclass(frozen=True, slots=True)
class ModelChange:
    """What came of it."""

    model: StoredModel
    is_changed: bool
    default: StoredModel | None  # of the account, afterwards
    notes: Sequence[str]


class Settled(NamedTuple):
    """All models of an account with one default, and what there is to say about it."""

    models: Sequence[StoredModel]
    default: StoredModel | None
    notes: Sequence[str]


async def list_models(database: Database, user_id: int) -> Sequence[StoredModel]:
    async with database.reading() as connection:
        return await read_models(connection, user_id)


async def create_model(database: Database, new: NewModel, author: Author, *, now: int) -> ModelChange:
    """Raises InvalidModel, and its kind SlugTaken; nothing is written then."""
    model = StoredModel(
        0,
        new.user_id,
        checked_name(new.name),
        checked_slug(new.slug) if new.slug is not None else "",
        model_type_of(new.type_name).value,
        config_text(new.type_name, new.config),
        new.is_active or new.is_default,
        False,  # noqa: FBT003 -- who is the default is decided for all models together
        now,
        now,
    )

    async def work(connection: Connection) -> ModelChange:
        others = await read_models(connection, new.user_id)
        inserted = await _insert_with_slug(connection, model, others)
        return await _created(connection, inserted, others, author, is_default=new.is_default)

    change = await behind_account(database, new.user_id, work, now=now)
    if new.is_default and not new.is_active:
        return ModelChange(change.model, True, change.default, (*change.notes, _ACTIVE_BY_DEFAULT))  # noqa: FBT003
    return change


_ACTIVE_BY_DEFAULT = "a default model is active: it is active now"


async def _insert_with_slug(connection: Connection, model: StoredModel, others: Sequence[StoredModel]) -> StoredModel:
    """Servers compare slugs in their own ways: theirs is the last word, and we ask them only for likely ones."""
    taken = {other.slug.casefold() for other in others}
    for slug in [model.slug] if model.slug else slugs_for(model.name, model.created_at):
        if slug.casefold() in taken:
            continue
        try:
            return await insert_model(connection, model._replace(slug=slug))
        except DuplicateKey:
            continue
    raise _slug_taken(model.slug)


def _slug_taken(slug: str) -> SlugTaken:
    return SlugTaken(f'another model of the user has the slug "{slug}"')


async def _created(
    connection: Connection, model: StoredModel, others: Sequence[StoredModel], author: Author, *, is_default: bool
) -> ModelChange:
    """The rest of a creation, once the row stands."""
    now = model.created_at
    before = [*others, model]
    settled = settle_default(before, wanted=model.model_id if is_default else None)
    await write_settled(connection, before, settled, now=now)
    created = _by_id(settled.models, model.model_id)
    entry = AuditEntry(
        user_id=model.user_id,
        model_id=model.model_id,
        action=AuditAction.MODEL_CREATE,
        before=None,
        after=as_audited(created),
        also=what_was_chosen(before, settled),
    )
    await write_audit(connection, entry, author, now=now)
    return ModelChange(created, True, settled.default, settled.notes)  # noqa: FBT003


async def seed_last_touch(
    connection: Connection, user_id: int, now: int, author: Author = WORKER
) -> StoredModel | None:
    """For an account that never had a model, whose lock the caller holds; None if it has, or had, one."""
    if await read_models(connection, user_id) or await had_models(connection, user_id):
        return None
    name, slug = _SEED
    model = StoredModel(0, user_id, name, slug, ModelType.LAST_TOUCH.value, "", True, False, now, now)  # noqa: FBT003
    change = await _created(connection, await insert_model(connection, model), [], author, is_default=True)
    return change.model


async def update_model(
    database: Database, place: ModelPlace, edit: ModelEdit, author: Author, *, now: int
) -> ModelChange:
    """Raises InvalidModel, and its kinds UnknownModel and SlugTaken; nothing is written then."""

    async def work(connection: Connection) -> ModelChange:
        before = await read_models(connection, place.user_id)
        return await _update(connection, before, found_model(before, place), edit, author=author, now=now)

    return await behind_account(database, place.user_id, work, now=now)


async def _update(
    connection: Connection,
    before: Sequence[StoredModel],
    model: StoredModel,
    edit: ModelEdit,
    *,
    author: Author,
    now: int,
) -> ModelChange:
    edited = _edited(model, edit)
    if any(other.slug.casefold() == edited.slug.casefold() for other in before if other.model_id != model.model_id):
        raise _slug_taken(edited.slug)
    settled = Settled(before, _default_of(before), ())
    if edited != model or edit.is_default is not None:
        settled = settle_default(
            [edited if each is model else each for each in before],
            wanted=model.model_id if edit.is_default else None,
            withdrawn=model.model_id if edit.is_default is False and model.is_default else None,
            before=before,
        )
    if list(settled.models) == list(before):
        return ModelChange(model, False, settled.default, settled.notes)  # noqa: FBT003
    try:
        await write_settled(connection, before, settled, now=now)
    except DuplicateKey:
        raise _slug_taken(edited.slug) from None
    notes = settled.notes
    if edit.is_default and edit.is_active is False:
        notes = (*notes, _ACTIVE_BY_DEFAULT)
    updated = _by_id(settled.models, model.model_id)
    entry = AuditEntry(
        user_id=model.user_id,
        model_id=model.model_id,
        action=AuditAction.MODEL_UPDATE,
        before=as_audited(model),
        after=as_audited(updated),
        also=what_was_chosen(before, settled),
    )
    await write_audit(connection, entry, author, now=now)
    return ModelChange(updated, True, settled.default, notes)  # noqa: FBT003


def _edited(model: StoredModel, edit: ModelEdit) -> StoredModel:
    """Without the question of who is the default. Type and config are checked only if one of them changes, so that a
    model that other hands broke can still be switched off. Raises InvalidModel."""
    if edit.name is not None:
        model = model._replace(name=checked_name(edit.name))
    if edit.slug is not None and edit.slug != model.slug:
        model = model._replace(slug=checked_slug(edit.slug))
    if edit.is_active is not None:
        model = model._replace(is_active=edit.is_active)
    if edit.type_name is None and edit.config is KEPT:
        return model
    type_name = model.type_name if edit.type_name is None else edit.type_name
    standing = _parsed(model.config_text)
    config = standing if edit.config is KEPT else edit.config
    text = config_text(type_name, config)  # raises InvalidModel, also where the standing text is not JSON
    is_same = standing == config or (not standing and not config)
    return model._replace(type_name=model_type_of(type_name).value, config_text=model.config_text if is_same else text)


def _parsed(text: str) -> object:
    """Text that is no JSON stays text, which no type takes for a config."""
    try:
        return json.loads(text) if text.strip() else None
    except (ValueError, RecursionError):
        return text


def found_model(models: Sequence[StoredModel], place: ModelPlace) -> StoredModel:
    """Raises UnknownModel."""
    for model in models:
        if model.slug == place.slug if place.model_id is None else model.model_id == place.model_id:
            return model
    name = f'with the slug "{place.slug}"' if place.model_id is None else f"{place.model_id}"
    raise UnknownModel(f"user {place.user_id} has no model {name}")


def settle_default(
    models: Sequence[StoredModel],
    *,
    wanted: int | None = None,
    withdrawn: int | None = None,
    before: Sequence[StoredModel] = (),
) -> Settled:
    """`models`: after the change. `wanted` becomes the default and active; `withdrawn` is to be it no longer, and stays
    it only if there is no other. `before`: the same models before the change, to tell what became of the old default.
    """
    notes = []
    chosen = wanted
    if chosen is None:
        others = [each for each in models if each.model_id != withdrawn]
        chosen = default_among([_candidate(each) for each in others])
        given_up = [each for each in models if each.model_id == withdrawn and each.is_active]
        if chosen is None and given_up:
            chosen = withdrawn
            notes.append(f'"{given_up[0].slug}" stays the default: no other active model can be computed')
    settled = [
        each._replace(is_default=each.model_id == chosen, is_active=each.is_active or each.model_id == wanted)
        for each in models
    ]
    default = _default_of(settled)
    earlier = _default_of(before or models)
    if default is not None and wanted is None and (earlier is None or earlier.model_id != default.model_id):
        notes.append(f'"{default.slug}" (model {default.model_id}) is the default now')
    if default is None:
        is_any_active = any(each.is_active for each in settled)
        notes.append(NONE_CAN_BE_COMPUTED if is_any_active else NONE_ACTIVE)
    return Settled(settled, default, notes)


NONE_ACTIVE = "no active model: nothing is attributed"
NONE_CAN_BE_COMPUTED = "no active model can be computed: nothing is attributed"


def _candidate(model: StoredModel) -> Candidate:
    is_broken = bool(model.problem)
    return Candidate(model.model_id, model.type_name, model.is_active, model.is_default, is_broken)


def _default_of(models: Sequence[StoredModel]) -> StoredModel | None:
    return next((each for each in models if each.is_default and each.is_active), None)


def _by_id(models: Sequence[StoredModel], model_id: int) -> StoredModel:
    return next(each for each in models if each.model_id == model_id)


async def write_settled(connection: Connection, before: Sequence[StoredModel], settled: Settled, *, now: int) -> None:
    """Rows that differ. Those that stop being the default come first, so that there are never two."""
    standing = {each.model_id: each for each in before}
    changed = [each._replace(updated_at=now) for each in settled.models if each != standing[each.model_id]]
    await update_models(connection, sorted(changed, key=lambda each: each.is_default))


def as_audited(model: StoredModel) -> dict[str, object]:
    return {
        "model_id": model.model_id,
        "name": model.name,
        "slug": model.slug,
        "type": model.type_name,
        "config": _parsed(model.config_text),
        "is_active": model.is_active,
        "is_default": model.is_default,
    }


def what_was_chosen(before: Sequence[StoredModel], settled: Settled) -> dict[str, object]:
    """For the audit row: which other models changed with the one it is about, and why."""
    earlier = _default_of(before)
    return {
        "default_before": earlier.model_id if earlier else None,
        "default_after": settled.default.model_id if settled.default else None,
        "notes": list(settled.notes),
    }


async def read_configuration_rows(
    connection: Connection, user_ids: Collection[int]
) -> Mapping[int, tuple[Sequence[ModelRow], Sequence[Toggle]]]:
    """What `stream.core.configuration.configuration_of` needs of each of these accounts; three statements for all."""
    if not user_ids:
        return {}
    models: dict[int, list[ModelRow]] = {user_id: [] for user_id in user_ids}
    for user_id, row in await read_model_rows(connection, user_ids):
        models[user_id].append(row)
    toggles = await read_toggles(connection, user_ids)
    return {user_id: (rows, toggles.get(user_id, ())) for user_id, rows in models.items()}
