"""Bytes to events: one meaning for both ways, the same as the schemas', and never a crash."""

import json
from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.core.errors import InvalidEvent
from stream.core.events import Click, Conversion
from stream.wire import careful, limits
from stream.wire.decoding import EventDecoder, check_event_time, decode_click, decode_conversion
from stream.wire.reasons import Reason
from tests.support.golden import SET_NAMES, SetName, load
from tests.wire.schema_checks import passes
from tests.wire.strategies import near_clicks, near_conversions

DAY = 86_400
CLICK = {"click_id": 5, "user_id": 7, "campaign_id": 3, "click_time": 1_790_000_000}
CONVERSION = {**CLICK, "conv_id": 9, "conv_time": 1_790_000_600, "click_payout": 12.5}


def click_bytes(**fields: object) -> bytes:
    return json.dumps({**CLICK, **fields}).encode()


def outcome(read: Callable[[bytes], object], value: bytes) -> object:
    """The event, or the reason why there is none; anything else that is raised fails the test."""
    try:
        return read(value)
    except InvalidEvent as error:
        return Reason(error.reason)


def carefully_click(value: bytes) -> Click:
    return careful.click_of(value)[0]


def carefully_conversion(value: bytes) -> Conversion:
    return careful.conversion_of(value)[0]


@given(near_clicks)
def test_fast_and_careful_reading_of_a_click_agree(text: str) -> None:
    value = text.encode()
    assert outcome(decode_click, value) == outcome(carefully_click, value)


@given(near_conversions)
def test_fast_and_careful_reading_of_a_conversion_agree(text: str) -> None:
    value = text.encode()
    assert outcome(decode_conversion, value) == outcome(carefully_conversion, value)


@given(near_clicks)
def test_fast_and_careful_reading_count_the_same_unknown_fields(text: str) -> None:
    decoder = EventDecoder()
    try:
        click, unknown = careful.click_of(text.encode())
    except InvalidEvent:
        return
    assert (decoder.click(text.encode()), decoder.unknown_fields) == (click, unknown)


@given(near_clicks)
def test_the_schema_of_clicks_takes_what_the_decoder_takes(text: str) -> None:
    assert isinstance(outcome(decode_click, text.encode()), Click) == passes("click.v1", text)


@given(near_conversions)
def test_the_schema_of_conversions_takes_what_the_decoder_takes(text: str) -> None:
    assert isinstance(outcome(decode_conversion, text.encode()), Conversion) == passes("conversion.v1", text)


@given(st.binary(max_size=200))
def test_any_bytes_give_an_event_or_a_reason(value: bytes) -> None:
    outcome(decode_click, value)
    outcome(decode_conversion, value)


@given(st.data())
def test_an_event_with_bytes_changed_gives_an_event_or_a_reason(data: st.DataObject) -> None:
    value = bytearray(json.dumps(CONVERSION).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    assert outcome(decode_conversion, bytes(value)) == outcome(carefully_conversion, bytes(value))


@given(st.integers(-limits.CPC_UNITS, limits.CPC_UNITS))
def test_money_is_exact_as_a_float_of_json_and_as_text(units: int) -> None:
    amount = Decimal(units).scaleb(-5)
    assert decode_click(click_bytes(click_cpc=float(amount))).click_cpc == units
    assert decode_click(click_bytes(click_cpc=f"{amount:f}")).click_cpc == units


@pytest.mark.parametrize("name", SET_NAMES)
def test_the_golden_sets_are_read_the_fast_way_without_unknown_fields(name: SetName) -> None:
    golden, decoder = load(name), EventDecoder()
    for line in golden.clicks:
        assert decoder.click(line.value) == carefully_click(line.value)
    for line in golden.conversions:
        assert decoder.conversion(line.value) == carefully_conversion(line.value)
    assert decoder.unknown_fields == 0


@pytest.mark.parametrize(
    "value",
    [
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b'{"click_id":' + b"9" * 60_000 + b"}",
        b'{"x":' + b"9" * 60_000 + b"}",
        b'{"click_cpc":0.' + b"1" * 60_000 + b"}",
        b'"' + b"\\" * 60_001 + b'"',
        b"\xef\xbb\xbf{}",
        '{"click_id": 1}'.encode("utf-16"),
        b"\0" * 65_536,
        b"",
    ],
    ids=range(10),
)
def test_hostile_bytes_give_a_reason(value: bytes) -> None:
    assert isinstance(outcome(decode_click, value), str)
    assert isinstance(outcome(decode_conversion, value), str)


def test_a_long_number_in_an_unknown_field_is_ignored() -> None:
    value = json.dumps(CLICK).encode()[:-1] + b', "x": ' + b"9" * 5000 + b', "y": 1e99999999999999999999}'
    decoder = EventDecoder()
    assert decoder.click(value) == decode_click(click_bytes())
    assert decoder.unknown_fields == 2


def test_nesting_is_allowed_up_to_a_fixed_depth_and_brackets_in_text_do_not_count() -> None:
    deepest = json.loads("[" * 63 + "]" * 63)
    assert decode_click(click_bytes(x=deepest)) == decode_click(click_bytes())
    assert decode_click(click_bytes(x=['"[[{' * 100])) == decode_click(click_bytes())
    assert outcome(decode_click, click_bytes(x=[deepest])) == Reason.UNREADABLE_JSON


def test_no_value_and_too_large_a_value_have_reasons_of_their_own() -> None:
    longest = click_bytes(x="").replace(b'""', b'"' + b"x" * (65_536 - len(click_bytes(x=""))) + b'"')
    assert len(longest) == 65_536
    assert isinstance(decode_click(longest), Click)
    assert outcome(decode_click, longest + b" ") == Reason.TOO_LARGE
    for read in (decode_click, decode_conversion):
        with pytest.raises(InvalidEvent) as caught:
            read(None)
        assert caught.value.reason == Reason.NO_VALUE


def test_the_last_of_two_fields_of_one_name_counts() -> None:
    value = json.dumps(CLICK).encode()[:-1] + b', "click_cpc": "what", "click_cpc": 0.5}'
    assert decode_click(value).click_cpc == 50_000


def test_unknown_fields_are_counted_over_all_events_of_a_decoder() -> None:
    decoder = EventDecoder()
    decoder.click(click_bytes(ip="192.0.2.1", agent=None))
    decoder.click(click_bytes(nested={"a": 1}))
    decoder.conversion(json.dumps({**CONVERSION, "currency": "EUR"}).encode())
    assert decoder.unknown_fields == 4


def test_absent_fields_are_zero_or_empty_and_the_cost_of_a_conversion_stays_unknown() -> None:
    assert decode_click(click_bytes()) == Click(5, 7, 3, 1_790_000_000, 0, "", 0, 0, 0, 0, 0, 0, 0, 0)  # type: ignore[arg-type]
    conversion = decode_conversion(json.dumps(CONVERSION).encode())
    assert (conversion.click_cpc, conversion.deleted, conversion.click_payout) == (None, 0, 1_250_000)
    with_cost = decode_conversion(json.dumps({**CONVERSION, "click_cpc": 0}).encode())
    assert with_cost.click_cpc == 0


def test_flags_are_zero_or_one_whatever_they_were_written_as() -> None:
    click = decode_click(click_bytes(click_bot=True, click_filtered=False))
    assert (type(click.click_bot), click.click_bot, click.click_filtered) == (int, 1, 0)
    carefully = decode_click(click_bytes(click_bot=True, click_filtered=1.0))
    assert (type(carefully.click_bot), carefully.click_bot, carefully.click_filtered) == (int, 1, 1)


def test_a_refusal_names_the_field_and_shows_no_text_of_the_sender() -> None:
    with pytest.raises(InvalidEvent, match='field "user_id" is a text, not a whole number') as caught:
        decode_click(click_bytes(user_id="somebody@example.org"))
    assert "somebody" not in str(caught.value)


def test_an_event_may_lie_31_days_after_its_append_time_and_not_a_second_more() -> None:
    append_time = 1_790_000_000
    check_event_time(append_time + 31 * DAY, append_time * 1000)
    check_event_time(0, append_time * 1000)
    with pytest.raises(InvalidEvent) as caught:
        check_event_time(append_time + 31 * DAY + 1, append_time * 1000)
    assert caught.value.reason == Reason.EVENT_TIME_AHEAD
