"""What is thrown at each parser, and what must hold whatever the bytes are: only its documented error comes out."""

import contextlib
import json
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import click
from aiokafka.structs import ConsumerRecord

from stream.agents.hour_reading import JourneyMarkReader
from stream.agents.reading import EventReader
from stream.commands.times import parse_time
from stream.config import read_settings
from stream.core.errors import InvalidEvent, Misconfigured
from stream.core.events import Click, Conversion
from stream.core.facts import Moment
from stream.core.keys import JourneyKey
from stream.core.model_definitions import config_text
from stream.core.models import InvalidModel, ModelType
from stream.core.state import KEPT_CLICKS, TOUCH_BYTES, KeyState, newest_clicks, pack_click, with_click
from stream.wire import careful
from stream.wire.dead_letters import MAX_ERROR_BYTES, Origin, dead_letter, read_dead_letter, redriven
from stream.wire.decoding import EventDecoder
from stream.wire.encoding import encode_click, encode_conversion
from stream.wire.installed_rows import click_of_row, conversion_of_row
from stream.wire.limits import MAX_EVENT_BYTES
from stream.wire.outgoing import Headers
from stream.wire.reasons import Reason
from tables.sql.addresses import address_of
from tables.sql.installed_address import source_address
from tables.sql.tls import tls_arguments
from tables.state.journeys import decode_state, encode_key, encode_state

Target = Callable[[bytes], None]
_REASONS = frozenset(Reason)
_SECRET = "c4nary"
_SECRET_LINE = re.compile(rb"(export )?TOUCHSTREAM_(KAFKA_SASL_PASSWORD|DATABASE_URL|IMPORT_FROM) ?=[^'\"]*$")


def clicks(data: bytes) -> None:
    """The fast and the careful way agree, and what is accepted is the same after one more turn on the wire."""
    fast = outcome(EventDecoder().click, data)
    if len(data) <= MAX_EVENT_BYTES:
        assert fast == outcome(lambda value: careful.click_of(value)[0], data)
    if isinstance(fast, Click):
        assert EventDecoder().click(encode_click(fast)) == fast
        encode_key(JourneyKey(fast.user_id, fast.campaign_id, fast.visitor_id))


def conversions(data: bytes) -> None:
    """Likewise."""
    fast = outcome(EventDecoder().conversion, data)
    if len(data) <= MAX_EVENT_BYTES:
        assert fast == outcome(lambda value: careful.conversion_of(value)[0], data)
    if isinstance(fast, Conversion):
        assert EventDecoder().conversion(encode_conversion(fast)) == fast


def records(data: bytes) -> None:
    """The whole record as the engine reads it: topic, time, value and a header from the bytes."""
    parts = _Parts(data)
    name, content = parts.text(), parts.bytes_()
    reader = EventReader(clicks="c", conversions="v", partitions=3)
    record = _record("c" if parts.small() % 2 else "v", parts.rest(), parts.number() % 2**42, ((name, content),))
    arrival = reader(record)
    assert 0 <= arrival.ordered_at <= record.timestamp // 1000


def marks(data: bytes) -> None:
    """What is no journey is counted, once."""
    reader = JourneyMarkReader()
    arrival = reader(_record("journeys", data, 1000, ()))
    assert (arrival.content is None) == (reader.unreadable == 1)


def dead_letters(data: bytes) -> None:
    """Whatever the headers are, what we wrote is read again, and goes back as it came."""
    parts = _Parts(data)
    headers = tuple((parts.text(), parts.bytes_() if parts.small() else None) for _ in range(parts.small() % 12))
    key, message = parts.bytes_(), parts.text()
    reason = parts.text().encode("utf-8", "replace").decode()
    value = parts.rest()
    found = read_dead_letter(key, value, headers)
    assert found is None or headers[: len(found.headers)] == found.headers
    origin = Origin("clicks", parts.small(), None if parts.small() % 2 else parts.number(), None)
    written = dead_letter(origin, InvalidEvent(reason, message), key=key, value=value, headers=headers)
    assert len(dict(written.headers)["touchstream-error"] or b"") <= MAX_ERROR_BYTES
    letter = read_dead_letter(written.key, written.value, written.headers)
    assert letter is not None
    assert (letter.key, letter.value, letter.headers, letter.origin) == (key, value, headers, origin)
    assert letter.reason == reason
    again = redriven(letter)
    assert (again.key, again.value, again.topic) == (key, value, "clicks")


def settings(data: bytes) -> None:
    """A file `.env` of these bytes: settings, or a refusal. Neither shows what stands at the settings for secrets."""
    lines = [line for line in re.split(rb"[\r\n]", data) if _SECRET.encode() in line]
    is_secret = bool(lines) and all(_SECRET_LINE.match(line) for line in lines)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / ".env").write_bytes(data)
        try:
            given = read_settings(Path(folder))
            shown = repr(replace(given, database_url="sqlite+aiosqlite:///x"))
            if given.database_url.startswith("m"):
                tls_arguments(address_of(given.database_url))
        except Misconfigured as error:
            shown = f"{error} {error.hint}"
        assert not is_secret or _SECRET not in shown, shown


def addresses(data: bytes) -> None:
    """The URL of a source: an address, or a refusal that shows no part of it."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        tls_arguments(source_address(text).url)
    except Misconfigured as error:
        assert _SECRET not in f"{error} {error.hint}"


def states(data: bytes) -> None:
    """A value of the changelog: unknown, or a state that can be asked, added to, and written again."""
    state = decode_state(data)
    if state is None:
        return
    assert len(state.clicks) % TOUCH_BYTES == 0
    again = encode_state(state)
    assert again is None or decode_state(again) == state
    newest_clicks(state, 0, _LAST, 25)
    grown = with_click(state, pack_click(_CLICK))
    assert isinstance(grown, KeyState)
    assert len(grown.clicks) <= max(len(state.clicks), KEPT_CLICKS * TOUCH_BYTES)


def rows(data: bytes) -> None:
    """Rows of an installation, of any types that a driver may give."""
    parts = _Parts(data)
    values = [parts.value() for _ in range(12)]
    for make, count in ((click_of_row, 12), (conversion_of_row, 10)):
        try:
            make(values[:count])
        except InvalidEvent as error:
            assert error.reason in _REASONS


def times(data: bytes) -> None:
    """A time on a command line."""
    with contextlib.suppress(click.BadParameter):
        assert 0 <= parse_time(data.decode("utf-8", "surrogateescape")) < 2**32


def configs(data: bytes) -> None:
    """The weighting config of a model, as the database has it or `--config` gives it."""
    try:
        config = json.loads(data)
    except (ValueError, RecursionError):
        return
    for kind in ModelType:
        with contextlib.suppress(InvalidModel):
            config_text(kind.value, config)


TARGETS: Mapping[str, Target] = {
    each.__name__: each
    for each in (
        *(clicks, conversions, records, marks, dead_letters, settings, addresses, states, rows, times, configs),
    )
}


class _Parts:
    """Bytes as a supply of values, the same ones each time; past the end come zeros."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken

    def small(self) -> int:
        return int.from_bytes(self.take(1), "big")

    def number(self) -> int:
        return int.from_bytes(self.take(8), "big")

    def bytes_(self) -> bytes:
        return self.take(self.small())

    def text(self) -> str:
        return self.bytes_().decode("utf-8", "backslashreplace")

    def rest(self) -> bytes:
        return self._data[self._at :]

    def value(self) -> object:
        kind = self.small() % 8
        plain: tuple[Callable[[], object], ...] = (
            lambda: None,
            self.number,
            self.text,
            self.bytes_,
            lambda: -self.number(),
            lambda: Decimal(self.number()).scaleb(-5),
            lambda: self.small() % 2 == 1,
            lambda: self.bytes_().decode("latin-1"),
        )
        return plain[kind]()


_CLICK = EventDecoder().click(b'{"click_id":7,"user_id":1,"campaign_id":1,"click_time":1790000000}')
_LAST = Moment(2**32 - 1, 2**63 - 1)


def _record(topic: str, value: bytes, timestamp: int, headers: Headers) -> "ConsumerRecord[bytes, bytes]":
    return ConsumerRecord(
        topic=topic,
        partition=0,
        offset=0,
        timestamp=timestamp,
        timestamp_type=1,
        key=None,
        value=value,
        checksum=None,
        serialized_key_size=-1,
        serialized_value_size=len(value),
        headers=headers,
    )


def outcome(decode: Callable[[bytes], Click | Conversion], data: bytes) -> object:
    """The event, or the reason why it is none."""
    try:
        return decode(data)
    except InvalidEvent as error:
        assert error.reason in _REASONS
        assert len(str(error)) < 500
        return error.reason
