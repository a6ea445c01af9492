"""Journeys and models for tests of hours, in the product's types, and the same as the oracle of hours knows them."""

import json
import random
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from stream.core.configuration import ModelRow
from stream.core.facts import Journey, Outcome, Touch
from stream.core.hours import CreditRow, HourKey
from stream.core.money import UNITS_PER_ONE, Units
from stream.core.results import SnapshotRow
from stream.core.toggles import Toggle
from tests.support import hour_oracle
from tests.support.builders import conversion

HOUR = 3600
BASE = 1_700_000_000 // HOUR * HOUR
DAY = 86_400

# Every type, more than one parameter where there are any. Ids as of one account's models.
DEFINITIONS: tuple[tuple[str, dict[str, Any] | None], ...] = (
    ("last_touch", None),
    ("first_touch", None),
    ("linear", None),
    ("time_decay", {"half_life_hours": 48}),
    ("time_decay", {"half_life_hours": 1}),
    ("position_based", {"first_touch_weight": 0.4, "last_touch_weight": 0.4}),
    ("position_based", {"first_touch_weight": 0.7, "last_touch_weight": 0.3}),  # 1.0 - 0.7 - 0.3 is not 0
    ("position_based", {"first_touch_weight": 0, "last_touch_weight": 0}),
    ("position_based", {"first_touch_weight": 0.3, "last_touch_weight": 0.6}),
    ("assisted", None),
    ("algorithmic", {"any": 1}),
)
AMOUNTS = (0, 1, -1, 5, 33_333, 100_000, 1_234_567, -1_250_000, 99_999_999_999)


def model_row(model_id: int, type_name: str, config: object = None, *, is_active: bool = True) -> ModelRow:
    return ModelRow(model_id, type_name, "" if config is None else json.dumps(config), is_active)


def model_rows(user_id: int) -> list[ModelRow]:
    """One of every definition."""
    return [model_row(user_id * 100 + number, *definition) for number, definition in enumerate(DEFINITIONS)]


def journey(
    chance: random.Random, conv_id: int, user_id: int, *, conv_time: int, version: int = 1, most_touches: int = 26
) -> Journey:
    """Any journey of one hour's conversion: with ties, late clicks, few scopes and some without; touches on odd times.

    Ages are never the same number of half-lives but for ties, so that no two shares are cut off alike by chance.
    """
    count = chance.choice((1, 1, 2, 3, chance.randint(1, most_touches)))
    times = [conv_time - chance.choice((-97, 0, 11, chance.randrange(31 * DAY))) for _ in range(count)]
    if chance.random() < 0.3:
        times = [times[0]] * count
    touches = tuple(
        sorted(
            Touch(
                max(0, click_time),
                conv_id * 100 + number,
                chance.choice((0, 1, 2)),
                chance.choice((0, 0, 5, 6)),
                chance.choice((0, 7, 8, 9)),
                chance.choice((0, 0, 3)),
            )
            for number, click_time in enumerate(times)
        )
    )
    converting = chance.choice(touches)
    return Journey(
        conversion(
            conv_id,
            click_id=converting.click_id,
            user_id=user_id,
            campaign_id=chance.choice((11, 12)),
            click_time=converting.click_time,
            conv_time=conv_time,
            click_payout=Units(chance.choice(AMOUNTS)),
        ),
        visitor_id="",
        outcome=Outcome.COUNTED,
        click_unknown=False,
        incomplete=False,
        click_cpc=Units(chance.choice((0, 1, 7, 61_565, 100_000))),
        ppc_account_id=converting.ppc_account_id,
        aff_network_id=chance.choice((0, 4, 5)),
        touches=touches,
        version=version,
    )


def uncounted(found: Journey, outcome: Outcome) -> Journey:
    return found._replace(outcome=outcome, touches=(), version=found.version + 1)


# As the oracle knows them


def as_earning(found: Journey) -> hour_oracle.Earning:
    return hour_oracle.Earning(
        conv_id=found.conversion.conv_id,
        user_id=found.conversion.user_id,
        campaign_id=found.conversion.campaign_id,
        conv_time=found.conversion.conv_time,
        click_id=found.conversion.click_id,
        payout=Decimal(found.conversion.click_payout) / UNITS_PER_ONE,
        cost=Decimal(found.click_cpc) / UNITS_PER_ONE,
        account=found.ppc_account_id,
        advertiser=found.aff_network_id,
        touches=tuple(
            hour_oracle.Touch(
                touch.click_time, touch.click_id, touch.ppc_network_id, touch.landing_page_id, touch.text_ad_id
            )
            for touch in found.touches
        ),
    )


def as_earnings(journeys: Iterable[Journey]) -> list[hour_oracle.Earning]:
    return [as_earning(each) for each in journeys if each.outcome is Outcome.COUNTED]


def as_model(user_id: int, row: ModelRow) -> hour_oracle.Model:
    return hour_oracle.Model(user_id, row.model_id, row.type_name, json.loads(row.config_text or "{}"))


def as_switch(user_id: int, toggle: Toggle) -> hour_oracle.Switch:
    return hour_oracle.Switch(user_id, toggle.scope.value, toggle.scope_id, toggle.since, toggle.is_enabled)


def as_snapshot(hour: HourKey, row: SnapshotRow) -> hour_oracle.Snapshot:
    return hour_oracle.Snapshot(
        hour.user_id,
        row.key.model_id,
        hour.date_hour,
        row.key.scope.value,
        row.key.scope_id,
        row.clicks,
        row.conversions,
        Decimal(row.revenue).scaleb(-4),
        Decimal(row.cost).scaleb(-4),
    )


def as_credit(hour: HourKey, row: CreditRow) -> hour_oracle.Credit:
    return hour_oracle.Credit(
        hour.user_id, row.model_id, hour.date_hour, row.conv_id, row.position, row.click_id, row.credit
    )
