"""The models of the runs with hours, and whether their rows are right."""

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from bench.traffic import Event, Expected
from stream.clock import unix_now
from tables.sql.database import open_database
from tables.sql.models import StoredModel, insert_model
from tests.support.hour_oracle import PARTS, Credit, Model, Snapshot, earnings_of, expected_hours
from tests.support.oracle import expected
from tests.support.rows import difference, query

MODELS: Mapping[str, Mapping[str, Any]] = {
    "last_touch": {},
    "linear": {},
    "position_based": {"first_touch_weight": 0.4, "last_touch_weight": 0.4},
    "time_decay": {"half_life_hours": 72},
}
MULTI_TOUCH_MODELS = len(MODELS) - 1

_CREDITS = "SELECT COUNT(*), COALESCE(SUM(credit), 0) FROM `202_attribution_touchpoints`"
_REVENUES = (
    "SELECT model_type, SUM(attributed_revenue), SUM(attributed_conversions) FROM `202_attribution_snapshots`"
    " JOIN `202_attribution_models` USING (model_id) WHERE scope_type = 'global' GROUP BY model_type"
)
_SNAPSHOT_ROWS = (
    "SELECT user_id, model_id, date_hour, scope_type, COALESCE(scope_id, 0), attributed_clicks,"
    " attributed_conversions, attributed_revenue, attributed_cost FROM `202_attribution_snapshots`"
)
_CREDIT_ROWS = (
    "SELECT user_id, model_id, date_hour, conv_id, position, click_id, credit FROM `202_attribution_touchpoints`"
    " JOIN `202_attribution_snapshots` USING (snapshot_id)"
)


def lay_models(database_url: str, user_ids: Iterable[int]) -> None:
    """Each account has MODELS before its first event."""
    asyncio.run(_lay_models(database_url, user_ids))


async def _lay_models(database_url: str, user_ids: Iterable[int]) -> None:
    database, now = open_database(database_url), int(unix_now())
    try:
        async with database.transaction() as connection:
            for user_id in user_ids:
                for kind, config in MODELS.items():
                    text = json.dumps(config) if config else ""
                    is_default = kind == "last_touch"
                    await insert_model(
                        connection,
                        StoredModel(0, user_id, kind, kind, kind, text, True, is_default, now, now),  # noqa: FBT003 - active
                    )
    finally:
        await database.close()


def count_credits(database_url: str) -> int:
    return int(query(database_url, _CREDITS)[0][0])


def count_snapshots(database_url: str) -> int:
    return int(query(database_url, "SELECT COUNT(*) FROM `202_attribution_snapshots`")[0][0])


def wrong_sums(database_url: str, wanted: Expected) -> str:
    """'' if every model gives what was paid, to the last cent, and there are credits for all touches."""
    rows, credit = query(database_url, _CREDITS)[0]
    found: list[object] = [int(rows), round(Decimal(str(credit)))]
    right: list[object] = [
        wanted.conversions + MULTI_TOUCH_MODELS * wanted.touchpoints,
        len(MODELS) * wanted.conversions,
    ]
    for kind, revenue, conversions in sorted(query(database_url, _REVENUES)):
        found.append((kind, round(Decimal(str(revenue)), 4), int(conversions)))
    right += [(kind, round(Decimal(wanted.cents) / 100, 4), wanted.conversions) for kind in sorted(MODELS)]
    return "" if found == right else f"found {found}, expected {right}"


def wrong_hours(database_url: str, events: Iterable[Event], append_time: int) -> str:
    """'' if every snapshot and every credit is the oracle's. For small sets."""
    records = [("clicks" if event.is_click else "conversions", event.value, append_time) for event in events]
    wanted = expected_hours(earnings_of(expected(records)), _models(database_url))
    snapshots = [
        Snapshot(*row[:7], *(round(Decimal(str(amount)), 4) for amount in row[7:]))
        for row in query(database_url, _SNAPSHOT_ROWS)
    ]
    credits = [
        Credit(user_id, model_id, hour, conv_id, position, click_id, round(Decimal(str(credit)) * PARTS))
        for user_id, model_id, hour, conv_id, position, click_id, credit in query(database_url, _CREDIT_ROWS)
    ]
    texts = [
        difference(wanted.snapshots, snapshots, what="snapshots"),
        difference(wanted.credits, credits, what="credits"),
    ]
    return "\n".join(text for text in texts if text)


def _models(database_url: str) -> Sequence[Model]:
    rows = query(database_url, "SELECT user_id, model_id, model_type FROM `202_attribution_models`")
    return [Model(user_id, model_id, kind, MODELS[kind]) for user_id, model_id, kind in rows]
