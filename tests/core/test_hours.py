"""Totals follow the conversions one by one, exactly, in every scope: whatever came and went, and in whatever order."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core.attribution import credit_touches
from stream.core.configuration import Configuration, ModelRow, configuration_of
from stream.core.credit import split
from stream.core.facts import Journey, Outcome, Touch
from stream.core.hours import Hour, HourKey, credit_key, final_before, snapshot_key, steps_of
from stream.core.models import FIRST_WEIGHT, LAST_WEIGHT, ModelType, Weighting
from stream.core.money import Units
from stream.core.results import SnapshotRow
from stream.core.toggles import is_multi_touch_on
from stream.core.totals import Scope, ScopeKey, earner_of
from tests.support.hour_examples import (
    BASE,
    as_credit,
    as_earnings,
    as_model,
    as_snapshot,
    journey,
    model_row,
    model_rows,
    uncounted,
)
from tests.support.hour_oracle import ExpectedHours, expected_hours, largest_remainder

KEY = HourKey(1, BASE)
MODELS = model_rows(1)
seeds = st.integers(0, 2**32 - 1)


def configured(rows: Sequence[ModelRow] = MODELS) -> Configuration:
    return configuration_of(rows, [], scopes="all")


def journeys(chance: random.Random, count: int) -> list[Journey]:
    return [journey(chance, conv_id, 1, conv_time=BASE + chance.randrange(3600)) for conv_id in range(1, count + 1)]


def put(hour: Hour, found: Journey) -> None:
    earner = earner_of(found, is_multi_touch_on=True)
    assert earner is not None
    hour.put(earner)


def results(hour: Hour) -> ExpectedHours:
    rows = [
        SnapshotRow(key, total.clicks, total.conversions, steps_of(total.revenue), steps_of(total.cost))
        for key, total in hour.totals.items()
    ]
    credits = [row for conv_id in hour.conv_ids() for row in hour.credits_of(conv_id, hour.configuration.models)]
    return ExpectedHours(
        sorted(as_snapshot(KEY, row) for row in rows), sorted(as_credit(KEY, credit) for credit in credits)
    )


def wanted(found: Sequence[Journey], rows: Sequence[ModelRow] = MODELS, *, extra: bool = True) -> ExpectedHours:
    return expected_hours(as_earnings(found), [as_model(1, row) for row in rows], with_extra_scopes=extra)


@given(seed=seeds, count=st.integers(1, 12), extra=st.booleans())
@settings(max_examples=60, deadline=None)
def test_totals_are_the_sums_over_conversions_in_every_scope(seed: int, count: int, *, extra: bool) -> None:
    chance = random.Random(seed)
    found = journeys(chance, count)
    hour = Hour(configured(), with_extra_scopes=extra)
    for each in found:
        put(hour, each)
    assert results(hour) == wanted(found, extra=extra)


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_any_order_of_coming_and_going_gives_the_same(seed: int) -> None:
    chance = random.Random(seed)
    hour = Hour(configured(), with_extra_scopes=True)
    standing: dict[int, Journey] = {}
    for _ in range(chance.randrange(40)):
        conv_id = chance.randint(1, 6)
        if chance.random() < 0.4:
            hour.remove(conv_id)
            standing.pop(conv_id, None)
        else:
            standing[conv_id] = journey(
                chance, conv_id, 1, conv_time=BASE + chance.randrange(3600), version=chance.randint(1, 99)
            )
            put(hour, standing[conv_id])
    assert results(hour) == wanted(list(standing.values()))
    assert {conv_id: hour.version(conv_id) for conv_id in hour.conv_ids()} == {
        conv_id: each.version for conv_id, each in standing.items()
    }
    assert len(hour) == len(standing)
    assert hour.version(99) is None
    for conv_id in list(standing):
        hour.remove(conv_id)
    assert hour.totals == {}


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_a_model_alone_gives_what_it_gives_among_others(seed: int) -> None:
    chance = random.Random(seed)
    found = journeys(chance, 4)
    among = Hour(configured(), with_extra_scopes=True)
    for each in found:
        put(among, each)
    everything = results(among)
    for row in MODELS:
        alone = Hour(configured([row]), with_extra_scopes=True)
        for each in found:
            put(alone, each)
        own = results(alone)
        assert own.snapshots == [each for each in everything.snapshots if each.model_id == row.model_id]
        assert own.credits == [each for each in everything.credits if each.model_id == row.model_id]


def test_weights_that_sum_to_1_leave_nothing_for_the_touches_between() -> None:
    found = journey(random.Random(5), 1, 1, conv_time=BASE)._replace(
        touches=tuple(Touch(BASE - 100 + number, 100 + number, 1, 2, 3, 4) for number in range(4))
    )
    rows = [
        model_row(hundredths, "position_based", {FIRST_WEIGHT: hundredths / 100, LAST_WEIGHT: (100 - hundredths) / 100})
        for hundredths in range(101)
    ]
    hour = Hour(configured(rows), with_extra_scopes=True)
    put(hour, found)
    assert results(hour) == wanted([found], rows)
    assert {total.clicks for key, total in hour.totals.items() if key.scope is Scope.GLOBAL} == {1, 2}


weightings = st.one_of(
    st.sampled_from([Weighting(kind) for kind in ModelType if kind not in ("time_decay", "position_based")]),
    st.builds(Weighting, st.just(ModelType.TIME_DECAY), half_life_hours=st.integers(1, 2**31 - 1)),
    st.builds(
        lambda first, rest: Weighting(
            ModelType.POSITION_BASED, first_touch_weight=first, last_touch_weight=(1 - first) * rest
        ),
        st.floats(0, 1),
        st.floats(0, 1),
    ),
)


@given(weightings, st.data())
@settings(max_examples=300)
def test_credits_sum_to_one_and_money_to_the_payout(weighting: Weighting, data: st.DataObject) -> None:
    times = sorted(data.draw(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=26)))
    converting = data.draw(st.integers(0, len(times) - 1))
    conv_time = data.draw(st.integers(0, 2**31 - 1) | st.sampled_from(times))
    credits = credit_touches(weighting, conv_time=conv_time, converting=converting, click_times=times)
    parts = [each.credit for each in credits]
    assert sum(parts) == 100_000
    assert min(parts) >= 0
    places = [each.place for each in credits]
    assert places == sorted(set(places))
    assert all(0 <= place < len(times) for place in places)
    amount = Units(data.draw(st.integers(-(10**14), 10**14)))
    shared = split(amount, parts)
    assert sum(shared) == amount
    assert all(part == 0 or (part < 0) == (amount < 0) for part in shared)


@given(st.lists(st.fractions(0, 10**6, max_denominator=10**6), min_size=1, max_size=26), st.integers(0, 10**12))
def test_the_oracle_s_own_shares_sum_to_the_whole(weights: list, total: int) -> None:  # type: ignore[type-arg]
    if any(weights):
        found = largest_remainder(total, weights)
        assert sum(found) == total
        whole = sum(weights)
        assert all(abs(part - weight * total / whole) < 1 for part, weight in zip(found, weights, strict=True))


@given(st.permutations(range(len(MODELS))), seeds)
@settings(max_examples=20)
def test_the_digest_tells_content_not_order(order: list[int], seed: int) -> None:
    assert configured([MODELS[number] for number in order]).revision == configured().revision
    changed = list(MODELS)
    number = seed % len(MODELS)
    changed[number] = changed[number]._replace(config_text='{"half_life_hours": 49}')
    assert configured(changed).revision != configured().revision
    del changed[number]
    assert configured(changed).revision != configured().revision


def test_the_digest_is_positive_has_63_bits_and_comes_back_with_the_content() -> None:
    first = configured()
    inactive = [*MODELS[1:], MODELS[0]._replace(is_active=False)]
    assert configured(inactive).revision == configured(MODELS[1:]).revision != first.revision
    assert configured([*inactive[:-1], MODELS[0]]).revision == first.revision
    assert 0 < first.revision < 2**63
    assert configuration_of(MODELS, [], scopes="global").revision != first.revision
    assert configuration_of([], [], scopes="").revision > 0


@pytest.mark.parametrize("text", ["{", "nope", "[1", "\x00", '{"half_life_hours": 1e999}', "[" * 20_000])
def test_a_broken_config_stops_its_own_model_alone(text: str) -> None:
    broken = ModelRow(1, "time_decay", text, is_active=True)
    configuration = configured([broken, model_row(2, "linear"), model_row(3, "no such type")])
    assert [model.model_id for model in configuration.models] == [2]
    assert set(configuration.broken) == {1, 3}
    assert all(configuration.broken.values())


def test_a_conversion_that_does_not_count_earns_nothing() -> None:
    found = journey(random.Random(1), 1, 1, conv_time=BASE)
    for outcome in (Outcome.DELETED, Outcome.DUPLICATE):
        assert earner_of(uncounted(found, outcome), is_multi_touch_on=True) is None


def test_with_multi_touch_off_the_converting_click_is_the_only_touch() -> None:
    found = journey(random.Random(3), 1, 1, conv_time=BASE)._replace(
        touches=(Touch(1, 101, 0, 0, 0, 0), Touch(2, 100, 0, 3, 4, 5), Touch(3, 102, 0, 0, 0, 0))
    )
    found = found._replace(conversion=found.conversion._replace(click_id=100))
    earner = earner_of(found, is_multi_touch_on=False)
    assert earner is not None
    assert earner.touches == (found.touches[1],)
    hour = Hour(configured(), with_extra_scopes=True)
    hour.put(earner)
    credits = list(hour.credits_of(1, hour.configuration.models))
    assert [each[1:] for each in credits] == [(1, 100, 0, 100_000)] * len(MODELS)
    assert hour.totals[ScopeKey(MODELS[0].model_id, Scope.ADGROUP, 5)].conversions == 1
    assert is_multi_touch_on([], advertiser=1, campaign=1, conv_time=1)


def test_a_total_too_great_for_its_column_stops_its_model_in_that_hour() -> None:
    hour = Hour(configured([model_row(1, "linear")]), with_extra_scopes=False)
    for conv_id in range(1, 101):
        found = journey(random.Random(conv_id), conv_id, 1, conv_time=BASE)
        put(hour, found._replace(conversion=found.conversion._replace(click_payout=Units(99_999_999_999))))
        # 100 million is the first amount that DECIMAL(12,4) does not hold: 999 999.99999 x 100, rounded, is not yet.
        assert hour.too_great() == {}
    found = journey(random.Random(0), 101, 1, conv_time=BASE)
    put(hour, found._replace(conversion=found.conversion._replace(click_payout=Units(95))))
    assert set(hour.too_great()) == {1}
    hour.remove(101)
    assert hour.too_great() == {}


def test_record_keys_name_a_row() -> None:
    assert snapshot_key(KEY, ScopeKey(3, Scope.GLOBAL, 0)) == f"1:3:{BASE}:global:0"
    assert snapshot_key(KEY, ScopeKey(3, Scope.LANDING_PAGE, 9)) == f"1:3:{BASE}:landing_page:9"
    assert credit_key(KEY, 3, 77, 2) == f"1:3:{BASE}:77:2"


def test_an_hour_is_final_once_the_watermark_is_past_its_end_by_the_allowed_lateness() -> None:
    end = BASE + 3600
    assert final_before(end + 3600 - 2, 3600) <= BASE
    assert final_before(end + 3600 - 1, 3600) <= BASE + 1
    assert final_before(end + 3600, 3600) > BASE
