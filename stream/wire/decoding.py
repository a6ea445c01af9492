"""Which click or conversion do these bytes report? Fast where an event is plain, careful where it is not."""

# Two ways, one meaning. Typed decoding takes the plain events, about one microsecond each. Whatever it refuses goes the
# careful way, which alone decides what is wrong with an event and gives the reason. A test holds the two together.

import re
from typing import Annotated

from msgspec import Meta, MsgspecError, Raw, Struct
from msgspec.json import Decoder

from stream.core.errors import InvalidEvent
from stream.core.events import Click, Conversion
from stream.core.money import Units
from stream.wire import careful, limits
from stream.wire.reasons import Reason

_MediumId = Annotated[int, Meta(ge=0, le=limits.MEDIUMINT)]
_KnownMediumId = Annotated[int, Meta(ge=1, le=limits.MEDIUMINT)]
_BigId = Annotated[int, Meta(ge=1, le=limits.BIGINT)]
_ConversionId = Annotated[int, Meta(ge=1, le=limits.INT)]
_ClickTime = Annotated[int, Meta(ge=0, le=limits.CLICK_TIME)]
_ConversionTime = Annotated[int, Meta(ge=0, le=limits.CONVERSION_TIME)]
_RevisionTime = Annotated[int, Meta(ge=0, le=limits.INT)]
_Flag = bool | Annotated[int, Meta(ge=0, le=1)] | None

# Money is taken as its own bytes: that is exact, and cheaper than a Decimal.
_NO_COST = Raw(b"0")
_ABSENT = Raw(b"null")

# By number of decimals. A sixth one is an IndexError, which sends the event the careful way.
_SCALES = (100_000, 10_000, 1_000, 100, 10, 1)
_QUOTED_AMOUNT = re.compile(rb'"(-?[0-9]{1,12})(?:\.([0-9]{0,5}))?"')

# What typed decoding and the conversions after it may raise; none of it is a verdict on the event.
_NOT_PLAIN = (MsgspecError, ValueError, IndexError, RecursionError)


class _ClickReport(Struct, forbid_unknown_fields=True, gc=False):
    click_id: _BigId
    user_id: _KnownMediumId
    campaign_id: _MediumId
    click_time: _ClickTime
    click_cpc: Raw = _NO_COST
    visitor_id: str | None = None
    ppc_account_id: _MediumId | None = None
    ppc_network_id: _MediumId | None = None
    landing_page_id: _MediumId | None = None
    text_ad_id: _MediumId | None = None
    aff_network_id: _MediumId | None = None
    click_bot: _Flag = None
    click_filtered: _Flag = None
    revised_at: _RevisionTime | None = None


class _ConversionReport(Struct, forbid_unknown_fields=True, gc=False):
    conv_id: _ConversionId
    click_id: _BigId
    user_id: _KnownMediumId
    campaign_id: _KnownMediumId
    click_time: _ConversionTime
    conv_time: _ConversionTime
    click_payout: Raw
    click_cpc: Raw = _ABSENT
    visitor_id: str | None = None
    transaction_id: str | None = None
    aff_network_id: _MediumId | None = None
    deleted: _Flag = None
    revised_at: _RevisionTime | None = None


class _ClickWithMore(_ClickReport, forbid_unknown_fields=False, gc=False):
    """The same, with fields beside them that nobody here knows."""


class _ConversionWithMore(_ConversionReport, forbid_unknown_fields=False, gc=False):
    """The same, with fields beside them that nobody here knows."""


_decode_click = Decoder(_ClickReport).decode
_decode_conversion = Decoder(_ConversionReport).decode
_decode_click_with_more = Decoder(_ClickWithMore).decode
_decode_conversion_with_more = Decoder(_ConversionWithMore).decode
# Plain values only: what is nested is counted the careful way, where depth has a bound.
_decode_flat = Decoder(dict[str, str | int | float | bool | None]).decode

_CLICK_FIELDS = frozenset(_ClickReport.__struct_fields__)
_CONVERSION_FIELDS = frozenset(_ConversionReport.__struct_fields__)


class EventDecoder:
    """Decodes events and counts the fields that it did not know."""

    __slots__ = ("unknown_fields",)

    def __init__(self) -> None:
        self.unknown_fields = 0

    def click(self, value: bytes | None) -> Click:
        """Raises InvalidEvent with one of `stream.wire.reasons`; never anything else, whatever the bytes are."""
        if value is None or len(value) > limits.MAX_EVENT_BYTES:
            raise _not_to_be_read(value)
        try:
            return _click_of(_decode_click(value))
        except _NOT_PLAIN:
            return self._unusual_click(value)

    def conversion(self, value: bytes | None) -> Conversion:
        """Raises InvalidEvent with one of `stream.wire.reasons`; never anything else, whatever the bytes are."""
        if value is None or len(value) > limits.MAX_EVENT_BYTES:
            raise _not_to_be_read(value)
        try:
            return _conversion_of(_decode_conversion(value))
        except _NOT_PLAIN:
            return self._unusual_conversion(value)

    def _unusual_click(self, value: bytes) -> Click:
        try:
            click = _click_of(_decode_click_with_more(value))
            unknown = len(_decode_flat(value).keys() - _CLICK_FIELDS)
        except _NOT_PLAIN:
            click, unknown = careful.click_of(value)
        self.unknown_fields += unknown
        return click

    def _unusual_conversion(self, value: bytes) -> Conversion:
        try:
            conversion = _conversion_of(_decode_conversion_with_more(value))
            unknown = len(_decode_flat(value).keys() - _CONVERSION_FIELDS)
        except _NOT_PLAIN:
            conversion, unknown = careful.conversion_of(value)
        self.unknown_fields += unknown
        return conversion


def decode_click(value: bytes | None) -> Click:
    """One click, where nobody counts unknown fields. Raises InvalidEvent."""
    return EventDecoder().click(value)


def decode_conversion(value: bytes | None) -> Conversion:
    """One conversion, where nobody counts unknown fields. Raises InvalidEvent."""
    return EventDecoder().conversion(value)


def check_event_time(event_time: int, append_time_ms: int) -> None:
    """Raise InvalidEvent if an event of unix second `event_time` was appended more than 31 days before it happened."""
    ahead_ms = event_time * 1000 - append_time_ms
    if ahead_ms > limits.MAX_EVENT_AHEAD_SECONDS * 1000:
        raise InvalidEvent(
            Reason.EVENT_TIME_AHEAD,
            f"event time {event_time} is {ahead_ms // 86_400_000} days after the append time",
        )


def _not_to_be_read(value: bytes | None) -> InvalidEvent:
    if value is None:
        return InvalidEvent(Reason.NO_VALUE, "the record has no value")
    return InvalidEvent(Reason.TOO_LARGE, f"the event has {len(value)} bytes, {limits.MAX_EVENT_BYTES} are the limit")


# The two below make tuples without the check of argument names in Click() and Conversion(): it is half of the cost.


def _click_of(report: _ClickReport) -> Click:
    return tuple.__new__(
        Click,
        (
            report.click_id,
            report.user_id,
            report.campaign_id,
            report.click_time,
            _units_within(bytes(report.click_cpc), limits.CPC_UNITS) or 0,
            _text(report.visitor_id) if report.visitor_id else "",
            report.ppc_account_id or 0,
            report.ppc_network_id or 0,
            report.landing_page_id or 0,
            report.text_ad_id or 0,
            report.aff_network_id or 0,
            1 if report.click_bot else 0,
            1 if report.click_filtered else 0,
            report.revised_at or 0,
        ),
    )


def _conversion_of(report: _ConversionReport) -> Conversion:
    payout = _units_within(bytes(report.click_payout), limits.PAYOUT_UNITS)
    if payout is None:
        raise ValueError("the payout is null")
    return tuple.__new__(
        Conversion,
        (
            report.conv_id,
            report.click_id,
            report.user_id,
            report.campaign_id,
            report.click_time,
            report.conv_time,
            payout,
            None if report.click_cpc is _ABSENT else _units_within(bytes(report.click_cpc), limits.CPC_UNITS),
            _text(report.visitor_id) if report.visitor_id else "",
            _text(report.transaction_id) if report.transaction_id else "",
            report.aff_network_id or 0,
            1 if report.deleted else 0,
            report.revised_at or 0,
        ),
    )


def _units_within(amount: bytes, limit: int) -> Units | None:
    """Units of a plain JSON number, null as None. ValueError or IndexError: not plain, or beyond the limit."""
    if amount == b"null":
        return None
    if amount[0] == 34:  # a quotation mark: int() alone would take blanks and underscores
        whole, decimals = _quoted(amount)
    else:
        whole, _, decimals = amount.partition(b".")
    units = int(whole + decimals) * _SCALES[len(decimals)]
    if not -limit <= units <= limit:
        raise ValueError("beyond the limit")
    return Units(units)


def _quoted(amount: bytes) -> tuple[bytes, bytes]:
    found = _QUOTED_AMOUNT.fullmatch(amount)
    if found is None:
        raise ValueError("not a plain amount")
    return found[1], found[2] or b""


def _text(text: str) -> str:
    """Without white space at its ends. ValueError: longer than the column, or with a character that no column takes."""
    stripped = text.strip()
    if len(stripped) > limits.TEXT_CHARACTERS or "\0" in stripped:
        raise ValueError("not a plain text")
    return stripped
