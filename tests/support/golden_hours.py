"""What the old system made of the golden sets under each model, and how near to it we must come."""

import gzip
import json
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from tests.support.golden import HOUR, VECTORS, SetName
from tests.support.hour_oracle import PARTS, Credit, Model, Snapshot

USERS = (1, 2, 3)
MONEY_TOLERANCE = Decimal("0.0001")
PARTS_TOLERANCE = 1
FIRST_DIFFERENCES = 10


def definitions(name: SetName) -> list[dict[str, Any]]:
    """Slug, type and weighting_config, each of them active for all USERS."""
    found: list[dict[str, Any]] = json.loads((VECTORS / name / "models.json").read_bytes())
    return found


def model_id(user_id: int, number: int) -> int:
    """The same model of different users has different ids."""
    return user_id * 100 + number


def models_of(name: SetName) -> list[Model]:
    return [
        Model(user_id, model_id(user_id, number), each["type"], each["weighting_config"] or {})
        for user_id in USERS
        for number, each in enumerate(definitions(name))
    ]


def expected_snapshots(name: SetName, *, shift_hours: int = 0) -> list[Snapshot]:
    """Of the global scope, the only one that the old system wrote."""
    slugs = _numbers(name)
    lines = (VECTORS / name / "expected_snapshots.jsonl").read_bytes().splitlines()
    return sorted(
        Snapshot(
            row["user_id"],
            model_id(row["user_id"], slugs[row["model"]]),
            row["date_hour"] + shift_hours * HOUR,
            "global",
            0,
            row["attributed_clicks"],
            row["attributed_conversions"],
            Decimal(row["attributed_revenue"]),
            Decimal(row["attributed_cost"]),
        )
        for row in map(json.loads, lines)
    )


def expected_credits(name: SetName, *, shift_hours: int = 0) -> list[Credit]:
    slugs = _numbers(name)
    lines = gzip.decompress((VECTORS / name / "expected_credits.jsonl.gz").read_bytes()).splitlines()
    return sorted(
        Credit(
            row["user_id"],
            model_id(row["user_id"], slugs[row["model"]]),
            row["date_hour"] + shift_hours * HOUR,
            row["conv_id"],
            row["position"],
            row["click_id"],
            int(Decimal(row["credit"]) * PARTS),
        )
        for row in map(json.loads, lines)
    )


def snapshots_differ(wanted: Iterable[Snapshot], found: Iterable[Snapshot]) -> str:
    """'' where clicks and conversions agree exactly and money within the tolerance."""
    texts = []
    by_place = {each[:5]: each for each in found}
    for each in wanted:
        other = by_place.pop(each[:5], None)
        if (
            other is None
            or each[5:7] != other[5:7]
            or abs(each.revenue - other.revenue) > MONEY_TOLERANCE
            or abs(each.cost - other.cost) > MONEY_TOLERANCE
        ):
            texts.append(f"- {each}\n+ {other}")
    return _told("snapshots", [*texts, *(f"+ {each}" for each in by_place.values())])


def credits_differ(wanted: Iterable[Credit], found: Iterable[Credit]) -> str:
    """'' where the same rows stand and each credit is within 0.00001."""
    texts = []
    by_place = {each[:6]: each for each in found}
    for each in wanted:
        other = by_place.pop(each[:6], None)
        if other is None or abs(each.parts - other.parts) > PARTS_TOLERANCE:
            texts.append(f"- {each}\n+ {other}")
    return _told("credits", [*texts, *(f"+ {each}" for each in by_place.values())])


def _numbers(name: SetName) -> dict[str, int]:
    return {each["slug"]: number for number, each in enumerate(definitions(name))}


def _told(what: str, texts: list[str]) -> str:
    if not texts:
        return ""
    return "\n".join([f"{what}: {len(texts)} differ", *texts[:FIRST_DIFFERENCES]])
