"""What becomes of records that cannot be read, and of records that are sent on."""

from hypothesis import given
from hypothesis import strategies as st

from stream.core.errors import InvalidEvent
from stream.wire.dead_letters import (
    Origin,
    dead_letter,
    dead_letter_topic,
    read_dead_letter,
    redriven,
    redriven_count,
)
from stream.wire.outgoing import Header, OutgoingRecord, SentOn, sent_on, sent_on_reason
from stream.wire.reasons import Reason

ORIGIN = Origin("clicks", 3, 42, 1_790_000_000_123)
REFUSED = InvalidEvent(Reason.WRONG_TYPE, 'field "user_id" is a text')

_names = st.sampled_from(["touchstream-reason", "touchstream-topic", "touchstream-redriven", "trace"]) | st.text()
_headers = st.lists(st.tuples(_names, st.none() | st.binary())).map(tuple)


def test_a_dead_letter_carries_the_record_as_it_was_and_says_why_and_whence() -> None:
    assert dead_letter(ORIGIN, REFUSED, key=b"7:3", value=b"\xff", headers=(("trace", b"1"),)) == OutgoingRecord(
        "clicks-dead-letters",
        0,
        b"7:3",
        b"\xff",
        (
            ("trace", b"1"),
            ("touchstream-reason", b"wrong_type"),
            ("touchstream-error", b'field "user_id" is a text'),
            ("touchstream-topic", b"clicks"),
            ("touchstream-partition", b"3"),
            ("touchstream-offset", b"42"),
            ("touchstream-append-time", b"1790000000123"),
        ),
    )


@given(st.none() | st.binary(), st.none() | st.binary(), _headers)
def test_a_dead_letter_is_read_again_whatever_headers_came_from_outside(
    key: bytes | None, value: bytes | None, headers: tuple[Header, ...]
) -> None:
    record = dead_letter(ORIGIN, REFUSED, key=key, value=value, headers=headers)
    letter = read_dead_letter(record.key, record.value, record.headers)
    assert letter is not None
    assert (letter.key, letter.value, letter.headers) == (key, value, headers)
    assert (letter.origin, letter.reason) == (ORIGIN, Reason.WRONG_TYPE)


def test_a_record_that_never_reached_the_log_has_no_offset() -> None:
    origin = Origin("clicks", None, None, None)
    record = dead_letter(origin, REFUSED, key=None, value=b"x")
    letter = read_dead_letter(record.key, record.value, record.headers)
    assert letter is not None
    assert letter.origin == origin


def test_a_record_without_our_headers_is_no_dead_letter() -> None:
    assert read_dead_letter(None, b"", ()) is None
    assert read_dead_letter(None, b"", (("touchstream-reason", b"x"),)) is None
    record = dead_letter(ORIGIN, REFUSED, key=None, value=None)
    behind = (*record.headers, ("touchstream-reason", b"x"))
    assert read_dead_letter(None, None, behind) is None
    wrong_offset = tuple((name, b"x" if name == "touchstream-offset" else text) for name, text in record.headers)
    assert read_dead_letter(None, None, wrong_offset) is None


@given(st.text(st.characters(), max_size=2000))
def test_the_error_is_cut_to_500_bytes_of_utf_8(message: str) -> None:
    record = dead_letter(ORIGIN, InvalidEvent(Reason.BAD_TEXT, message), key=None, value=None)
    error = dict(record.headers)["touchstream-error"]
    assert error is not None
    assert len(error) <= 500
    assert message.encode("utf-8", "backslashreplace").decode().startswith(error.decode())


def test_a_dead_letter_topic_is_named_after_its_source() -> None:
    assert dead_letter_topic("test-clicks") == "test-clicks-dead-letters"


def test_a_redriven_record_is_the_original_with_a_count() -> None:
    record = dead_letter(ORIGIN, REFUSED, key=b"k", value=b"v", headers=(("trace", b"1"),))
    letter = read_dead_letter(record.key, record.value, record.headers)
    assert letter is not None
    once = redriven(letter)
    assert once == OutgoingRecord("clicks", None, b"k", b"v", (("trace", b"1"), ("touchstream-redriven", b"1")))
    refused_again = dead_letter(ORIGIN, REFUSED, key=once.key, value=once.value, headers=once.headers)
    letter = read_dead_letter(refused_again.key, refused_again.value, refused_again.headers)
    assert letter is not None
    assert letter.redriven_count == 1
    assert redriven(letter).headers == (("trace", b"1"), ("touchstream-redriven", b"2"))


def test_a_count_that_is_no_number_counts_as_none() -> None:
    for content in (b"", None, b"-1", b"many", b"9" * 50, "²".encode()):
        assert redriven_count((("touchstream-redriven", content),)) == 0


def test_a_record_that_is_sent_on_says_why_once() -> None:
    record = OutgoingRecord("clicks", 5, b"7:3", b"{}", (("trace", b"1"),))
    assert sent_on_reason(record.headers) is None
    first = sent_on(record, SentOn.CLICK)
    assert first == record._replace(headers=(("trace", b"1"), ("touchstream-sent-on", b"click")))
    second = sent_on(first, SentOn.PARTITION)
    assert second.headers == (("trace", b"1"), ("touchstream-sent-on", b"partition"))
    assert sent_on_reason(second.headers) is SentOn.PARTITION
    assert sent_on_reason((("touchstream-sent-on", b"nonsense"),)) is None
