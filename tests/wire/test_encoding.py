"""Events and journeys to bytes."""

import json

from hypothesis import given
from hypothesis import strategies as st

from stream.core.events import Click, Conversion
from stream.core.facts import Journey, Outcome, Touch, touch_of
from stream.core.money import Units, amount_text
from stream.wire import careful
from stream.wire.decoding import EventDecoder
from stream.wire.encoding import encode_click, encode_conversion, encode_journey, journey_record_key
from tests.wire.schema_checks import check, passes
from tests.wire.strategies import clicks, conversions

CONVERSION = Conversion(1, 5, 7, 3, 1_790_000_000, 1_790_000_600, Units(1_250_000), None, "v", "t", 0, 0, 0)


def journey(
    conversion: Conversion = CONVERSION, touches: tuple[Touch, ...] = (), outcome: Outcome = Outcome.COUNTED
) -> Journey:
    return Journey(
        conversion,
        visitor_id="v",
        outcome=outcome,
        click_unknown=False,
        incomplete=False,
        click_cpc=Units(61_565),
        ppc_account_id=1,
        aff_network_id=2,
        touches=touches,
        version=3,
    )


@given(clicks)
def test_a_click_comes_back_as_it_was(click: Click) -> None:
    decoder, value = EventDecoder(), encode_click(click)
    assert decoder.click(value) == careful.click_of(value)[0] == click
    assert decoder.unknown_fields == 0
    assert passes("click.v1", value.decode())


@given(conversions)
def test_a_conversion_comes_back_as_it_was(conversion: Conversion) -> None:
    decoder, value = EventDecoder(), encode_conversion(conversion)
    assert decoder.conversion(value) == careful.conversion_of(value)[0] == conversion
    assert decoder.unknown_fields == 0
    assert passes("conversion.v1", value.decode())


@given(conversions, st.lists(clicks, max_size=26), st.sampled_from(Outcome), st.none() | st.integers(0, 500_000))
def test_a_journey_passes_its_schema(
    conversion: Conversion, touched: list[Click], outcome: Outcome, previous: int | None
) -> None:
    record = journey(conversion, tuple(map(touch_of, touched)), outcome)
    value = encode_journey(record, None if previous is None else previous * 3600)
    check("journey.v1", value.decode())


def test_a_journey_record_is_whole_and_keyed_by_its_account() -> None:
    touches = (Touch(1_789_999_000, 4, 1, 2, 3, 4), Touch(1_790_000_000, 5, 1, 2, 3, 4))
    record = journey(touches=touches)
    assert json.loads(encode_journey(record, 1_789_995_600)) == {
        "conv_id": 1,
        "user_id": 7,
        "campaign_id": 3,
        "visitor_id": "v",
        "conv_time": 1_790_000_600,
        "date_hour": 1_789_999_200,
        "previous_hour": 1_789_995_600,
        "version": 3,
        "outcome": "counted",
        "click_unknown": False,
        "incomplete": False,
        "purged": False,
        "click_payout": "12.50000",
        "click_cpc": "0.61565",
        "ppc_account_id": 1,
        "aff_network_id": 2,
        "conversion": {
            "conv_id": 1,
            "click_id": 5,
            "user_id": 7,
            "campaign_id": 3,
            "click_time": 1_790_000_000,
            "conv_time": 1_790_000_600,
            "click_payout": 12.5,
            "visitor_id": "v",
            "transaction_id": "t",
        },
        "touches": [
            {"position": position, **touch._asdict()}  # the field names are those of the wire
            for position, touch in enumerate(touches)
        ],
    }
    assert journey_record_key(record) == b"7"


@given(conversions)
def test_the_conversion_inside_a_journey_decodes_to_the_same_conversion(conversion: Conversion) -> None:
    record = json.loads(encode_journey(journey(conversion), None), parse_float=str)
    assert EventDecoder().conversion(json.dumps(record["conversion"]).encode()) == conversion
    assert record["click_payout"] == amount_text(conversion.click_payout)
