"""From a fetched record to what the journeys agent works with; also its place in time."""

from typing import NamedTuple

from stream.core.errors import InvalidEvent
from stream.core.events import Click, Conversion
from stream.core.keys import partition_of
from stream.engine.chunk import Arrival, SourceRecord
from stream.wire.decoding import EventDecoder, check_event_time
from stream.wire.limits import MAX_EVENT_BYTES
from stream.wire.reasons import Reason

_HEADER_OVERHEAD = 10  # bytes at most for the two lengths


class Misplaced(NamedTuple):
    """A good event on the wrong partition: to be sent on, never folded here."""

    event: Click | Conversion
    partition: int


Content = Click | Conversion | Misplaced | InvalidEvent


class EventReader:
    """Called once a record, in the order of the log."""

    def __init__(self, *, clicks: str, conversions: str, partitions: int) -> None:
        self.decoder = EventDecoder()
        self._clicks = clicks
        self._conversions = conversions
        self._partitions = partitions

    def __call__(self, record: SourceRecord) -> Arrival:
        appended_at = record.timestamp // 1000
        event: Click | Conversion
        try:
            if record.topic == self._clicks:
                event = self.decoder.click(record.value)
                happened_at = event.click_time
            else:
                event = self.decoder.conversion(record.value)
                happened_at = event.conv_time
            if happened_at > appended_at:
                check_event_time(happened_at, record.timestamp)
        except InvalidEvent as error:
            return Arrival(record, appended_at, error)
        ordered_at = happened_at if happened_at < appended_at else appended_at
        partition = partition_of(event.user_id, event.campaign_id, self._partitions)
        if partition != record.partition:
            return Arrival(record, ordered_at, _sent_on_or_refused(record, event, partition))
        return Arrival(record, ordered_at, event)


def _sent_on_or_refused(record: SourceRecord, event: Click | Conversion, partition: int) -> Misplaced | InvalidEvent:
    """With one more header the topic may not take it again: it is no larger than the topic allows, headers included."""
    size = sum(_HEADER_OVERHEAD + len(name.encode()) + len(content or b"") for name, content in record.headers)
    if size > MAX_EVENT_BYTES:
        why = f"on the wrong partition, and its headers have {size} bytes, {MAX_EVENT_BYTES} are the limit"
        return InvalidEvent(Reason.TOO_LARGE, why)
    return Misplaced(event, partition)
