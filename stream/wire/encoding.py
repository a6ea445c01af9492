"""How does an event or a journey of ours look on the wire?"""

from functools import lru_cache

from msgspec import Raw, Struct
from msgspec.json import Encoder

from stream.core.events import Click, Conversion
from stream.core.facts import Journey
from stream.core.money import Units, amount_text

_encode = Encoder().encode

_REQUIRED_OF_CLICK = frozenset({"click_id", "user_id", "campaign_id", "click_time"})


def encode_click(click: Click) -> bytes:
    """An event of click.v1 that decodes to the same click."""
    said = {name: value for name, value in click._asdict().items() if value or name in _REQUIRED_OF_CLICK}
    if click.click_cpc:
        said["click_cpc"] = _number(click.click_cpc)
    return _encode(said)


def encode_conversion(conversion: Conversion) -> bytes:
    """An event of conversion.v1 that decodes to the same conversion."""
    return _encode(_conversion_event(conversion))


def encode_journey(journey: Journey, previous_hour: int | None) -> bytes:
    """A record of journey.v1; `previous_hour` is the hour the conversion counted in before, if it has moved."""
    conversion = journey.conversion
    record = _JourneyRecord(
        conversion.conv_id,
        conversion.user_id,
        conversion.campaign_id,
        journey.visitor_id,
        conversion.conv_time,
        journey.date_hour,
        previous_hour,
        journey.version,
        journey.outcome.value,
        journey.click_unknown,
        journey.incomplete,
        journey.purged,
        amount_text(conversion.click_payout),
        amount_text(journey.click_cpc),
        journey.ppc_account_id,
        journey.aff_network_id,
        _conversion_event(conversion),
        [_TouchAt(position, *touch) for position, touch in enumerate(journey.touches)],
    )
    return _encode(record)


def journey_record_key(journey: Journey) -> bytes:
    """Records of the journeys topic are keyed by account, for the hours are."""
    return b"%d" % journey.conversion.user_id


# Structures, for they are written in a third of the time that dictionaries take.


class _ConversionEvent(Struct, omit_defaults=True):
    """conversion.v1, its fields in the order of Conversion. What an event does not say is left out."""

    conv_id: int
    click_id: int
    user_id: int
    campaign_id: int
    click_time: int
    conv_time: int
    click_payout: Raw
    click_cpc: Raw | None = None  # 0 is a cost of its own, unlike none
    visitor_id: str = ""
    transaction_id: str = ""
    aff_network_id: int = 0
    deleted: int = 0
    revised_at: int = 0


class _TouchAt(Struct):
    """A touch of journey.v1: the fields of Touch, in their order, behind its position."""

    position: int
    click_time: int
    click_id: int
    ppc_account_id: int
    ppc_network_id: int
    landing_page_id: int
    text_ad_id: int


class _JourneyRecord(Struct):
    """journey.v1."""

    conv_id: int
    user_id: int
    campaign_id: int
    visitor_id: str
    conv_time: int
    date_hour: int
    previous_hour: int | None
    version: int
    outcome: str
    click_unknown: bool
    incomplete: bool
    purged: bool
    click_payout: str
    click_cpc: str
    ppc_account_id: int
    aff_network_id: int
    conversion: _ConversionEvent
    touches: list[_TouchAt]


def _conversion_event(conversion: Conversion) -> _ConversionEvent:
    cost = conversion.click_cpc
    return _ConversionEvent(
        *conversion[:6], _number(conversion.click_payout), None if cost is None else _number(cost), *conversion[8:]
    )


@lru_cache(maxsize=1 << 16)  # as amount_text is
def _number(units: Units) -> Raw:
    """A JSON number with five decimals: exact, where a float would not be."""
    return Raw(amount_text(units).encode())
