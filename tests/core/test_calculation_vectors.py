"""Every calculation of the reference comes out the same here, or better where the reference was wrong."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from stream.core.attribution import TouchCredit, credit_touches
from stream.core.configuration import ModelRow, configuration_of
from stream.core.credit import WHOLE_CREDIT
from stream.core.facts import Touch
from stream.core.hours import HOUR_SECONDS, Hour, steps_of
from stream.core.models import InvalidModel, ModelType, Weighting, weighting_of
from stream.core.money import Units, units_of
from stream.core.totals import Earner, Scope, ScopeKey

VECTORS: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parent.parent / "golden" / "vectors" / "unit_vectors.json").read_bytes()
)
CALCULATIONS = VECTORS["calculation_vectors"]
ROUNDINGS = VECTORS["storage_rounding_vectors"]
VALIDATIONS = VECTORS["model_validation_vectors"]
TOUCHES = {"ST-1": [0, 1, 2, 3], "ST-2": [0, 1, 2, 3, 4], "ST-3": [0, 29 * 86_400]}

# Better than what the reference stores, as its own documents ask for (D17): credits sum to exactly 1.
BETTER_CREDITS = {
    "ST-1": ["0.33334", "0.33333", "0.33333"],
    "ST-2": ["0.40000", "0.06667", "0.06667", "0.06666", "0.40000"],
    "ST-3": ["0.00000", "1.00000"],
}


def by_id(vector: dict[str, Any]) -> str:
    return str(vector["id"])


def earner_of(conversion: dict[str, Any]) -> Earner:
    """With its journey as the reference reads it: the converting click inserted if it lacks, by time and id."""
    places = [(time, click_id) for click_id, time in conversion["journey"]]
    own = conversion["click_time"], conversion["click_id"]
    if own[1] not in {click_id for _, click_id in places}:
        places.append(own)
    touches = [Touch(click_time, click_id, 0, 0, 0, 0) for click_time, click_id in sorted(places)]
    return Earner(
        conversion["conv_id"],
        1,
        conversion["click_id"],
        conversion["conv_time"],
        0,
        0,
        0,
        units_of(Decimal(str(conversion["payout"]))),
        units_of(Decimal(str(conversion["cost"]))),
        touches,
    )


@pytest.mark.parametrize("vector", CALCULATIONS, ids=by_id)
def test_conversions_give_the_reference_s_rows(vector: dict[str, Any]) -> None:
    row = ModelRow(7, vector["model_type"], json.dumps(vector["config"]), is_active=True)
    configuration = configuration_of([row], [], scopes="")
    assert not configuration.broken
    hours: dict[int, Hour] = {}
    credits: list[tuple[Any, ...]] = []
    for conversion in vector["conversions"]:
        earner = earner_of(conversion)
        date_hour = earner.conv_time - earner.conv_time % HOUR_SECONDS
        hour = hours.setdefault(date_hour, Hour(configuration, with_extra_scopes=False))
        hour.put(earner)
        credits += [(date_hour, *each) for each in hour.credits_of(earner.conv_id, configuration.models)]
    wanted = vector["expect"]["credits"]
    assert [(each[0], *each[2:5]) for each in credits] == [
        (each["date_hour"], each["conv_id"], each["click_id"], each["position"]) for each in wanted
    ]
    for found, each in zip(credits, wanted, strict=True):
        # The reference's sixth and later decimals never reach its column; here the fifth may serve the exact sum.
        assert abs(found[5] - each["credit"] * 100_000) < 1
    check_snapshots(vector["expect"]["snapshots"], hours)


def check_snapshots(wanted: list[dict[str, Any]], hours: dict[int, Hour]) -> None:
    """Clicks and conversions as they are; money as the reference's column rounds it."""
    found = {date_hour: hour.totals[ScopeKey(7, Scope.GLOBAL, 0)] for date_hour, hour in hours.items()}
    assert {date_hour: (total.clicks, total.conversions) for date_hour, total in found.items()} == {
        each["date_hour"]: (each["attributed_clicks"], each["attributed_conversions"]) for each in wanted
    }
    for each in wanted:
        total = found[each["date_hour"]]
        assert steps_of(total.revenue) == round(each["attributed_revenue"] * 10_000)
        assert steps_of(total.cost) == round(each["attributed_cost"] * 10_000)


@pytest.mark.parametrize("vector", [each for each in CALCULATIONS if each["asserted"]], ids=by_id)
def test_what_the_reference_s_tests_assert_holds(vector: dict[str, Any]) -> None:
    """They assert what `expect` says too, which the test above compares: no vector contradicts itself."""
    asserted, expect = vector["asserted"], vector["expect"]
    for each in asserted.get("snapshots", []):
        (snapshot,) = (other for other in expect["snapshots"] if other["date_hour"] == each["date_hour"])
        for name in ("clicks", "conversions", "revenue", "cost"):
            if name in each:
                assert snapshot[f"attributed_{name}"] == pytest.approx(each[name], abs=each.get("tol", 0) or 1e-9)
    for hour, rows in asserted.get("touchpoint_rows", {}).items():
        assert sum(each["date_hour"] == int(hour) for each in expect["credits"]) == rows


@pytest.mark.parametrize("vector", ROUNDINGS, ids=by_id)
def test_stored_credits_sum_to_exactly_one(vector: dict[str, Any]) -> None:
    weighting = weighting_of(vector["model_type"], vector.get("config"))
    ages = TOUCHES[vector["id"]]
    conv_time = 1_700_000_000
    found = credit_touches(
        weighting, conv_time=conv_time, converting=0, click_times=[conv_time - age for age in reversed(ages)]
    )
    texts = [f"{each.credit / 100_000:.5f}" for each in found]
    assert texts == BETTER_CREDITS[vector["id"]]
    assert sum(each.credit for each in found) == 100_000
    assert len(found) == vector.get("attributed_clicks", len(found))
    for text, stored in zip(texts, vector["stored_credit"], strict=True):
        assert abs(Decimal(text) - Decimal(stored)) <= Decimal("0.00001")


@pytest.mark.parametrize("vector", VALIDATIONS, ids=by_id)
def test_models_are_accepted_and_refused_as_by_the_reference(vector: dict[str, Any]) -> None:
    if vector["valid"]:
        weighting = weighting_of(vector["type"], vector["config"])
        assert weighting.type == vector["type"].lower()
        assert weighting.half_life_hours == vector.get("effective_half_life_hours", 0)
    else:
        with pytest.raises(InvalidModel, match=vector.get("message_contains")):
            weighting_of(vector["type"], vector["config"])


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"half_life_hours": True},
        {"half_life_hours": "x"},
        {"half_life_hours": "nan"},
        {"half_life_hours": float("inf")},
        {"half_life_hours": 10**400},
        {"half_life_hours": 2**31},
        {"half_life_hours": -1},
        {"half_life_hours": None},
        {"half_life_hours": [1]},
        [48],
        48,
    ],
)
def test_a_half_life_is_a_whole_number_above_0(config: object) -> None:
    with pytest.raises(InvalidModel):
        weighting_of("time_decay", config)


@pytest.mark.parametrize("hours", [1.9, "1", "1.99"])
def test_fractions_of_a_half_life_are_cut_off(hours: object) -> None:
    assert weighting_of("time_decay", {"half_life_hours": hours}).half_life_hours == 1


@pytest.mark.parametrize(
    "config",
    [
        {"first_touch_weight": 0.4},
        {"first_touch_weight": 1.1, "last_touch_weight": 0},
        {"first_touch_weight": "nan", "last_touch_weight": 0},
        {"first_touch_weight": True, "last_touch_weight": 0},
        {"first_touch_weight": 0, "last_touch_weight": -0.1},
        {"first_touch_weight": 0.50001, "last_touch_weight": 0.5},
    ],
)
def test_weights_lie_between_0_and_1_and_so_does_their_sum(config: object) -> None:
    with pytest.raises(InvalidModel):
        weighting_of("position_based", config)


@pytest.mark.parametrize("hundredths", range(101))
def test_weights_that_sum_to_1_are_never_above_it(hundredths: int) -> None:
    config = {"first_touch_weight": hundredths / 100, "last_touch_weight": (100 - hundredths) / 100}
    assert weighting_of("position_based", config).first_touch_weight == hundredths / 100


@pytest.mark.parametrize("kind", [ModelType.LAST_TOUCH, ModelType.FIRST_TOUCH, ModelType.LINEAR, ModelType.ASSISTED])
@pytest.mark.parametrize("config", [None, {}, []])
def test_types_without_settings_take_an_empty_config(kind: ModelType, config: object) -> None:
    assert weighting_of(kind.value, config) == Weighting(kind)


def test_last_touch_keeps_its_one_row_at_position_0() -> None:
    found = credit_touches(Weighting(ModelType.LAST_TOUCH), conv_time=9, converting=2, click_times=[1, 2, 3, 4])
    assert found == (TouchCredit(2, 0, WHOLE_CREDIT),)


def test_a_weight_too_small_for_a_float_earns_no_row() -> None:
    weighting = Weighting(ModelType.TIME_DECAY, half_life_hours=1)
    found = credit_touches(weighting, conv_time=2000 * 3600, converting=1, click_times=[0, 2000 * 3600])
    assert [(each.position, each.credit) for each in found] == [(1, 100_000)]


def test_touches_too_old_for_any_weight_share_alike() -> None:
    weighting = Weighting(ModelType.TIME_DECAY, half_life_hours=1)
    found = credit_touches(weighting, conv_time=2000 * 3600, converting=1, click_times=[0, 1])
    assert [each.credit for each in found] == [50_000, 50_000]


@pytest.mark.parametrize(
    ("units", "steps"), [(0, 0), (4, 0), (5, 1), (-4, 0), (-5, -1), (-6, -1), (14, 1), (15, 2), (-15, -2)]
)
def test_totals_are_rounded_half_away_from_zero(units: int, steps: int) -> None:
    assert steps_of(Units(units)) == steps
