"""Money is exact or refused; shares sum to the whole."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.core.credit import WHOLE_CREDIT, Credit, apportion, split
from stream.core.money import Units, amount_text, units_of

weights = st.lists(st.floats(min_value=0, max_value=1e9, allow_nan=False), min_size=1, max_size=26)


@pytest.mark.parametrize(
    ("amount", "units"),
    [("0", 0), ("12.5", 1_250_000), ("-0.00001", -1), ("1E+2", 10_000_000), ("1.2300000", 123_000), ("-0.0", 0)],
)
def test_amounts_become_whole_units(amount: str, units: int) -> None:
    assert units_of(Decimal(amount)) == units


@pytest.mark.parametrize("amount", ["0.000001", "NaN", "Infinity", "1E+999999", "1E-999999", "0." + "3" * 70])
def test_what_is_no_exact_amount_is_refused(amount: str) -> None:
    with pytest.raises(ValueError, match=r"is not an amount of money|has more than 5 decimals"):
        units_of(Decimal(amount))


@given(st.integers(-(10**12), 10**12).map(Units))
def test_the_text_gives_the_units_back(units: Units) -> None:
    assert units_of(Decimal(amount_text(units))) == units


def test_text_has_five_decimals_and_a_sign() -> None:
    assert [amount_text(Units(units)) for units in (1_250_000, -1, 0)] == ["12.50000", "-0.00001", "0.00000"]


def test_a_third_each_gives_the_odd_part_to_the_oldest() -> None:
    assert apportion([1.0, 1.0, 1.0]) == (33_334, 33_333, 33_333)


def test_the_largest_remainder_gets_the_odd_part() -> None:
    assert apportion([1.0, 2.0]) == (33_333, 66_667)


def test_a_tiny_weight_gets_no_part_and_loses_none() -> None:
    assert apportion([2e-210, 1.0]) == (0, 100_000)


@pytest.mark.parametrize("bad", [[], [0.0, 0.0], [-1.0, 2.0], [float("nan")], [float("inf"), 1.0]])
def test_weights_that_share_nothing_are_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="weight"):
        apportion(bad)


@given(weights.filter(any), st.integers(-(10**11), 10**11).map(Units))
def test_credits_sum_to_the_whole_and_money_to_the_amount(drawn: list[float], amount: Units) -> None:
    credits = apportion(drawn)
    assert sum(credits) == WHOLE_CREDIT
    assert all(credit >= 0 for credit in credits)
    shares = split(amount, credits)
    assert sum(shares) == amount
    assert all(
        abs(share * WHOLE_CREDIT - amount * credit) < WHOLE_CREDIT
        for share, credit in zip(shares, credits, strict=True)
    )


def test_credits_that_are_not_whole_are_our_own_mistake() -> None:
    with pytest.raises(AssertionError):
        split(Units(1), [Credit(1)])
