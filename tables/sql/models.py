"""Rows of 202_attribution_models, which other hands write too: whatever they hold is read."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from stream.core.configuration import ModelRow, model_of
from stream.core.models import InvalidModel
from tables.sql.connections import Connection, Row
from tables.sql.selects import fetch_of_accounts

_RELATION = "202_attribution_models"
_COLUMNS = (
    "model_id, user_id, model_name, model_slug, model_type, weighting_config, is_active, is_default, created_at,"
    " updated_at"
)


class StoredModel(NamedTuple):
    """A row. Of a new one `model_id` is 0."""

    model_id: int
    user_id: int
    name: str
    slug: str
    type_name: str
    config_text: str  # JSON; '' for NULL
    is_active: bool
    is_default: bool
    created_at: int
    updated_at: int

    @property
    def row(self) -> ModelRow:
        return ModelRow(self.model_id, self.type_name, self.config_text, self.is_active)

    @property
    def problem(self) -> str:
        """Why it cannot be computed; '' if it can."""
        try:
            model_of(self.row)
        except InvalidModel as error:
            return str(error)
        return ""


def whole(value: object) -> int | None:
    """None for NULL, and for what is no number: SQLite holds any value in any column."""
    try:
        return int(value)  # type: ignore[call-overload, no-any-return]  # any value
    except (TypeError, ValueError, OverflowError):
        return None


def text_of(value: object) -> str:
    """'' for NULL."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return "" if value is None else str(value)


def _model_of(row: Row) -> StoredModel:
    model_id, user_id, name, slug, type_name, config, is_active, is_default, created_at, updated_at = row
    return StoredModel(
        model_id,
        user_id,
        text_of(name),
        text_of(slug),
        text_of(type_name),
        text_of(config),
        bool(whole(is_active)),
        bool(whole(is_default)),
        whole(created_at) or 0,
        whole(updated_at) or 0,
    )


async def read_models(connection: Connection, user_id: int) -> list[StoredModel]:
    """Of one account, by id."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM `{_RELATION}` WHERE user_id = ? ORDER BY model_id", [user_id]
    )
    return [_model_of(row) for row in rows]


async def read_model_rows(connection: Connection, user_ids: Collection[int]) -> list[tuple[int, ModelRow]]:
    """User id and row, of all of these accounts; one statement."""
    rows = await fetch_of_accounts(
        connection, f"SELECT user_id, model_id, model_type, weighting_config, is_active FROM `{_RELATION}`", user_ids
    )
    return [
        (user_id, ModelRow(model_id, text_of(type_name), text_of(config), bool(whole(is_active))))
        for user_id, model_id, type_name, config, is_active in rows
    ]


async def read_accounts_with_models(connection: Connection, user_ids: Collection[int]) -> set[int]:
    """Those of the accounts that have any."""
    rows = await fetch_of_accounts(connection, f"SELECT DISTINCT user_id FROM `{_RELATION}`", user_ids)
    return {row[0] for row in rows}


async def read_active_models(connection: Connection) -> list[StoredModel]:
    """Of all accounts, by account and id."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM `{_RELATION}` WHERE is_active <> 0 ORDER BY user_id, model_id"
    )
    return [_model_of(row) for row in rows]


async def read_accounts_without_active_model(connection: Connection) -> list[int]:
    """Those that have conversions, ascending."""
    rows = await connection.fetch(
        "SELECT account.user_id FROM (SELECT DISTINCT user_id FROM `202_stream_journeys`) AS account"
        f" WHERE NOT EXISTS (SELECT 1 FROM `{_RELATION}` AS model"
        " WHERE model.user_id = account.user_id AND model.is_active <> 0)"
    )
    return sorted(user_id for (user_id,) in rows)


async def insert_model(connection: Connection, model: StoredModel) -> StoredModel:
    """With its id. Raises DuplicateKey if the account has the slug; the transaction may go on then."""
    await connection.run(
        f"INSERT INTO `{_RELATION}` (user_id, model_name, model_slug, model_type, weighting_config, is_active,"
        " is_default, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [*_values(model), model.created_at, model.updated_at],
    )
    rows = await connection.fetch(
        f"SELECT model_id FROM `{_RELATION}` WHERE user_id = ? AND model_slug = ?", [model.user_id, model.slug]
    )
    return model._replace(model_id=rows[0][0])


async def update_models(connection: Connection, models: Sequence[StoredModel]) -> None:
    """Raises DuplicateKey if the account has one of the slugs."""
    for model in models:
        await connection.run(
            f"UPDATE `{_RELATION}` SET user_id = ?, model_name = ?, model_slug = ?, model_type = ?,"
            " weighting_config = ?, is_active = ?, is_default = ?, updated_at = ? WHERE model_id = ?",
            [*_values(model), model.updated_at, model.model_id],
        )


async def delete_model_row(connection: Connection, model_id: int) -> None:
    await connection.run(f"DELETE FROM `{_RELATION}` WHERE model_id = ?", [model_id])


def _values(model: StoredModel) -> list[object]:
    config = model.config_text or None
    flags = [int(model.is_active), int(model.is_default)]
    return [model.user_id, model.name, model.slug, model.type_name, config, *flags]
