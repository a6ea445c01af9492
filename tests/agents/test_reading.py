"""What a fetched record becomes, and its place in time."""

import pytest
from aiokafka.structs import ConsumerRecord
from hypothesis import given
from hypothesis import strategies as st

from stream.agents.reading import EventReader, Misplaced
from stream.core.errors import InvalidEvent
from stream.core.events import Click, Conversion
from stream.core.keys import partition_of, record_key
from stream.engine.chunk import Arrival
from stream.wire.encoding import encode_click, encode_conversion
from stream.wire.limits import MAX_EVENT_AHEAD_SECONDS, MAX_EVENT_BYTES
from stream.wire.reasons import Reason
from tests.support import strategies

PARTITIONS = 4
APPENDED_AT = 1_800_000_000
HOME = partition_of(1, 11, PARTITIONS)
CLICK = Click(5, 1, 11, APPENDED_AT - 60, 0, "v", 0, 0, 0, 0, 0, 0, 0, 0)  # type: ignore[arg-type]
CONVERSION = Conversion(9, 5, 1, 11, CLICK.click_time, APPENDED_AT - 30, 0, None, "", "", 0, 0, 0)  # type: ignore[arg-type]


def reader() -> EventReader:
    return EventReader(clicks="t-clicks", conversions="t-conversions", partitions=PARTITIONS)


def read(value: bytes | None, *, topic: str = "t-clicks", partition: int = HOME, key: bytes | None = None) -> Arrival:
    timestamp = APPENDED_AT * 1000 + 999
    return reader()(ConsumerRecord(topic, partition, 7, timestamp, 1, key, value, None, 0, 0, ()))


def test_a_click_is_ordered_by_its_time() -> None:
    arrival = read(encode_click(CLICK))
    assert (arrival.content, arrival.ordered_at) == (CLICK, CLICK.click_time)


def test_a_conversion_is_ordered_by_its_own_time_not_by_its_click() -> None:
    arrival = read(encode_conversion(CONVERSION), topic="t-conversions")
    assert (arrival.content, arrival.ordered_at) == (CONVERSION, CONVERSION.conv_time)


def test_the_topic_decides_what_an_event_is() -> None:
    arrival = read(encode_click(CLICK), topic="t-conversions")
    assert isinstance(arrival.content, InvalidEvent)
    assert arrival.content.reason == Reason.MISSING_FIELD


@pytest.mark.parametrize("ahead", [1, 3600, MAX_EVENT_AHEAD_SECONDS])
def test_an_event_that_says_it_comes_from_the_future_is_ordered_by_its_append_time(ahead: int) -> None:
    click = CLICK._replace(click_time=APPENDED_AT + ahead)
    arrival = read(encode_click(click))
    assert (arrival.content, arrival.ordered_at) == (click, APPENDED_AT)


def test_an_event_too_far_in_the_future_is_refused_at_its_append_time() -> None:
    arrival = read(encode_click(CLICK._replace(click_time=APPENDED_AT + MAX_EVENT_AHEAD_SECONDS + 1)))
    assert isinstance(arrival.content, InvalidEvent)
    assert (arrival.content.reason, arrival.ordered_at) == (Reason.EVENT_TIME_AHEAD, APPENDED_AT)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, Reason.NO_VALUE),
        (b"", Reason.UNREADABLE_JSON),
        (b"{", Reason.UNREADABLE_JSON),
        (b"[1]", Reason.NOT_AN_OBJECT),
        (b"{}", Reason.MISSING_FIELD),
        (b"{" + b" " * 70_000 + b"}", Reason.TOO_LARGE),
    ],
)
def test_what_cannot_be_read_is_kept_with_its_reason_and_its_place(value: bytes | None, reason: Reason) -> None:
    arrival = read(value)
    assert isinstance(arrival.content, InvalidEvent)
    assert (arrival.content.reason, arrival.ordered_at) == (reason, APPENDED_AT)
    assert arrival.record.value == value


@pytest.mark.parametrize("partition", [each for each in range(PARTITIONS) if each != HOME])
def test_a_good_event_on_the_wrong_partition_is_to_be_sent_on(partition: int) -> None:
    arrival = read(encode_click(CLICK), partition=partition)
    assert (arrival.content, arrival.ordered_at) == (Misplaced(CLICK, HOME), CLICK.click_time)


@pytest.mark.parametrize("key", [None, b"", b"2:12", b"not a key"])
def test_the_key_of_the_record_decides_nothing(key: bytes | None) -> None:
    assert read(encode_click(CLICK), key=key).content == CLICK
    assert isinstance(read(encode_click(CLICK), key=key, partition=(HOME + 1) % PARTITIONS).content, Misplaced)


def test_unknown_fields_are_counted() -> None:
    counting = reader()
    value = encode_click(CLICK)[:-1] + b',"who":1}'
    record = ConsumerRecord("t-clicks", HOME, 7, APPENDED_AT * 1000, 1, record_key(1, 11), value, None, 0, 0, ())
    assert counting(record).content == CLICK
    assert counting.decoder.unknown_fields == 1


@given(strategies.clicks() | strategies.conversions(), st.integers(0, PARTITIONS - 1), st.integers(-100, 100))
def test_a_good_event_is_itself_at_home_and_misplaced_elsewhere(
    event: Click | Conversion, partition: int, lag: int
) -> None:
    happened_at = event.click_time if isinstance(event, Click) else event.conv_time
    topic, value = (
        ("t-clicks", encode_click(event)) if isinstance(event, Click) else ("t-conversions", encode_conversion(event))
    )
    timestamp = (happened_at + lag) * 1000
    arrival = reader()(ConsumerRecord(topic, partition, 0, timestamp, 1, None, value, None, 0, 0, ()))
    home = partition_of(event.user_id, event.campaign_id, PARTITIONS)
    assert arrival.content == (event if partition == home else Misplaced(event, home))
    assert arrival.ordered_at == min(happened_at, happened_at + lag)


@given(st.binary(max_size=200))
def test_no_bytes_raise(value: bytes) -> None:
    assert isinstance(read(value).content, InvalidEvent | Click | Misplaced)


@pytest.mark.parametrize("headers", [(("x", bytes(MAX_EVENT_BYTES)),), (("", None),) * 7_000])
def test_a_record_that_its_headers_make_too_large_to_be_sent_on_is_refused(
    headers: tuple[tuple[str, bytes | None], ...],
) -> None:
    value = encode_click(CLICK)

    def content(partition: int) -> object:
        record = ConsumerRecord("t-clicks", partition, 7, APPENDED_AT * 1000, 1, None, value, None, 0, 0, headers)
        return reader()(record).content

    refused = content(HOME + 1)
    assert isinstance(refused, InvalidEvent)
    assert refused.reason == Reason.TOO_LARGE
    assert content(HOME) == CLICK  # nothing has to be sent
