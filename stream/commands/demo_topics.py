"""What a consumer holds that keeps the last record of each key of the two result topics."""

import json
from collections.abc import Mapping
from typing import Any

from stream.commands.demo_rows import CreditKey, Credits, ShownCredit, ShownTotal, TotalKey, Totals, parts_of
from stream.commands.log_access import read_records
from stream.config import Settings
from stream.topics import CREDITS, SNAPSHOTS


async def _last_records(settings: Settings, topic: str) -> list[dict[str, Any]]:
    """A tombstone takes its key away."""
    last: dict[bytes, bytes | None] = {}
    async for record in read_records(settings, settings.topic_prefix + topic):
        last[record.key] = record.value
    return [json.loads(value) for value in last.values() if value is not None]


async def published_totals(settings: Settings, models: Mapping[int, str]) -> Totals:
    """`models`: slugs by id."""
    return {
        TotalKey(
            each["user_id"], models[each["model_id"]], each["date_hour"], each["scope_type"], each["scope_id"] or 0
        ): ShownTotal(
            each["attributed_clicks"],
            each["attributed_conversions"],
            parts_of(each["attributed_revenue"], 10_000),
            parts_of(each["attributed_cost"], 10_000),
        )
        for each in await _last_records(settings, SNAPSHOTS)
    }


async def published_credits(settings: Settings, models: Mapping[int, str]) -> Credits:
    """`models`: slugs by id."""
    return {
        CreditKey(
            each["user_id"], models[each["model_id"]], each["date_hour"], each["conv_id"], each["position"]
        ): ShownCredit(each["click_id"], parts_of(each["credit"], 100_000))
        for each in await _last_records(settings, CREDITS)
    }
