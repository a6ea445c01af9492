"""What exactly is wrong with this event, if anything? The slow and complete way of decoding.

Takes everything that the schemas take: whole numbers written as 12.0 or 1.2e1, amounts as text, blanks around text.
"""

import json
import re
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any, NoReturn

from stream.core.errors import InvalidEvent
from stream.core.events import Click, Conversion
from stream.core.money import Units, units_of
from stream.wire import limits
from stream.wire.reasons import Reason

# A reader takes the name and the value of a field and gives what the event holds.
_Reader = Callable[[str, object], Any]
_Readers = Mapping[str, _Reader]

_AMOUNT = re.compile(r"-?[0-9]+(?:\.[0-9]*)?")
_STRINGS_AND_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_LONGEST_INT_DIGITS = 40  # beyond any column; longer ones are never made an int, which costs the square of their length
_UNREADABLE_AMOUNT = Decimal("Infinity")


def click_of(value: bytes) -> tuple[Click, int]:
    """The click, and how many fields were unknown. Raises InvalidEvent."""
    fields, unknown = _read(value, _CLICK_READERS)
    return Click(**fields), unknown


def conversion_of(value: bytes) -> tuple[Conversion, int]:
    """The conversion, and how many fields were unknown. Raises InvalidEvent."""
    fields, unknown = _read(value, _CONVERSION_READERS)
    return Conversion(**fields), unknown


def _read(value: bytes, readers: _Readers) -> tuple[dict[str, Any], int]:
    report = _parse(value)
    if not isinstance(report, dict):
        raise InvalidEvent(Reason.NOT_AN_OBJECT, f"the JSON is {_kind(report)}, not an object")
    fields = {name: reader(name, report.get(name)) for name, reader in readers.items()}
    return fields, len(report.keys() - readers.keys())


def _parse(value: bytes) -> object:
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidEvent(Reason.UNREADABLE_JSON, f"not UTF-8 at byte {error.start}") from error
    _check_depth(text)
    try:
        return json.loads(text, parse_float=_decimal, parse_int=_whole, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidEvent(Reason.UNREADABLE_JSON, f"not JSON: {error}") from error


def _check_depth(text: str) -> None:
    """The parser's own bound hangs on the stack of its caller; this one is the same everywhere."""
    if text.count("[") + text.count("{") <= limits.MAX_DEPTH:
        return
    depth = 0
    for found in _STRINGS_AND_BRACKETS.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
        if depth > limits.MAX_DEPTH:
            raise InvalidEvent(Reason.UNREADABLE_JSON, f"nested more than {limits.MAX_DEPTH} deep")


def _decimal(digits: str) -> Decimal:
    try:
        return Decimal(digits)
    except InvalidOperation:
        return _UNREADABLE_AMOUNT  # an exponent that no Decimal holds


def _whole(digits: str) -> int | Decimal:
    return int(digits) if len(digits) <= _LONGEST_INT_DIGITS else _decimal(digits)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# --- readers of one field -----------------------------------------------------------------------------------------


def _required(reader: _Reader, name: str, value: object) -> object:
    if value is None:
        raise InvalidEvent(Reason.MISSING_FIELD, f'field "{name}" is missing')
    return reader(name, value)


def _optional(reader: _Reader, absent: object, name: str, value: object) -> object:
    return absent if value is None else reader(name, value)


def _number(lowest: int, highest: int, name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise _wrong_type(name, value, "a whole number")
    if not lowest <= value <= highest:
        raise _out_of_range(name, value, f"{lowest} to {highest}")
    # In range, so the exponent cannot make this dear.
    if value != int(value):
        raise _wrong_type(name, value, "a whole number")
    return int(value)


def _money(limit: int, name: str, value: object) -> Units:
    if isinstance(value, str) and _AMOUNT.fullmatch(value.strip()):
        value = _decimal(value.strip())
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise _wrong_type(name, value, "an amount of money")
    highest = Decimal(limit).scaleb(-5)
    if not -highest <= value <= highest:
        raise _out_of_range(name, value, f"{-highest} to {highest}")
    try:
        return units_of(Decimal(value))
    except ValueError as error:
        raise InvalidEvent(Reason.TOO_MANY_DECIMALS, f'field "{name}": {error}') from error


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise _wrong_type(name, value, "a text")
    text = value.strip()
    if "\0" in text:
        raise InvalidEvent(Reason.BAD_TEXT, f'field "{name}" holds a NUL character')
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InvalidEvent(Reason.BAD_TEXT, f'field "{name}" holds half of a surrogate pair')
    if len(text) > limits.TEXT_CHARACTERS:
        raise InvalidEvent(
            Reason.OUT_OF_RANGE, f'field "{name}" has {len(text)} characters, {limits.TEXT_CHARACTERS} are the limit'
        )
    return text


def _flag(name: str, value: object) -> int:
    if isinstance(value, bool):
        return int(value)
    return _number(0, 1, name, value)


def _wrong_type(name: str, value: object, wanted: str) -> InvalidEvent:
    return InvalidEvent(Reason.WRONG_TYPE, f'field "{name}" is {_shown(value)}, not {wanted}')


def _out_of_range(name: str, value: object, wanted: str) -> InvalidEvent:
    return InvalidEvent(Reason.OUT_OF_RANGE, f'field "{name}" is {_shown(value)}, beyond {wanted}')


def _kind(value: object) -> str:
    kinds = {str: "a text", list: "a list", dict: "an object", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _shown(value: object) -> str:
    if isinstance(value, str | list | dict):
        return _kind(value)  # texts may be personal: they stay in the bytes of the dead letter
    return f"{value!s:.40}"


def _required_id(highest: int) -> _Reader:
    return partial(_required, partial(_number, 1, highest))


def _required_whole(highest: int) -> _Reader:
    return partial(_required, partial(_number, 0, highest))


def _optional_whole(highest: int) -> _Reader:
    return partial(_optional, partial(_number, 0, highest), 0)


_OPTIONAL_TEXT = partial(_optional, _text, "")
_OPTIONAL_FLAG = partial(_optional, _flag, 0)

# In the order of the tuples in core.events.
_CLICK_READERS: _Readers = {
    "click_id": _required_id(limits.BIGINT),
    "user_id": _required_id(limits.MEDIUMINT),
    "campaign_id": _required_whole(limits.MEDIUMINT),
    "click_time": _required_whole(limits.CLICK_TIME),
    "click_cpc": partial(_optional, partial(_money, limits.CPC_UNITS), 0),
    "visitor_id": _OPTIONAL_TEXT,
    "ppc_account_id": _optional_whole(limits.MEDIUMINT),
    "ppc_network_id": _optional_whole(limits.MEDIUMINT),
    "landing_page_id": _optional_whole(limits.MEDIUMINT),
    "text_ad_id": _optional_whole(limits.MEDIUMINT),
    "aff_network_id": _optional_whole(limits.MEDIUMINT),
    "click_bot": _OPTIONAL_FLAG,
    "click_filtered": _OPTIONAL_FLAG,
    "revised_at": _optional_whole(limits.INT),
}

_CONVERSION_READERS: _Readers = {
    "conv_id": _required_id(limits.INT),
    "click_id": _required_id(limits.BIGINT),
    "user_id": _required_id(limits.MEDIUMINT),
    "campaign_id": _required_id(limits.MEDIUMINT),
    "click_time": _required_whole(limits.CONVERSION_TIME),
    "conv_time": _required_whole(limits.CONVERSION_TIME),
    "click_payout": partial(_required, partial(_money, limits.PAYOUT_UNITS)),
    "click_cpc": partial(_optional, partial(_money, limits.CPC_UNITS), None),
    "visitor_id": _OPTIONAL_TEXT,
    "transaction_id": _OPTIONAL_TEXT,
    "aff_network_id": _optional_whole(limits.MEDIUMINT),
    "deleted": _OPTIONAL_FLAG,
    "revised_at": _optional_whole(limits.INT),
}
