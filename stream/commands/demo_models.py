"""The attribution models of the demo's accounts."""

from collections.abc import Mapping
from typing import NamedTuple

from stream.commands.demo_traffic import USERS
from stream.config import Settings
from tables.sql.accounts import behind_account
from tables.sql.audit import Author
from tables.sql.connections import Connection
from tables.sql.database import open_database
from tables.sql.model_store import NewModel, create_model, seed_last_touch

SEEDED = "last-touch"
_AUTHOR = Author("demo", "cli")


class ShownModel(NamedTuple):
    """A model and what is needed to compute it once more."""

    slug: str
    name: str
    type_name: str
    config: Mapping[str, float]


MODELS = (
    ShownModel(SEEDED, "Last Touch", "last_touch", {}),
    ShownModel("linear", "Linear", "linear", {}),
    ShownModel(
        "position-based", "Position Based", "position_based", {"first_touch_weight": 0.4, "last_touch_weight": 0.4}
    ),
    ShownModel("time-decay", "Time Decay", "time_decay", {"half_life_hours": 72}),
)


async def create_models(settings: Settings, *, now: int) -> None:
    """All of MODELS for each account; the first is the one that every account without a model gets."""
    database = open_database(settings.database_url)
    try:
        for user_id in USERS:

            async def seed(connection: Connection, user_id: int = user_id) -> None:
                await seed_last_touch(connection, user_id, now)

            await behind_account(database, user_id, seed, now=now)
            for model in MODELS[1:]:
                new = NewModel(
                    user_id=user_id, name=model.name, type_name=model.type_name, config=dict(model.config) or None
                )
                await create_model(database, new, _AUTHOR, now=now)
    finally:
        await database.close()
