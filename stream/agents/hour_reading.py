"""From a record of the journeys topic to the mark that it is for the hours; what it says is read from SQL again."""

import logging
from dataclasses import replace
from typing import NamedTuple

import msgspec

from stream.engine.chunk import Arrival, SourceRecord

log = logging.getLogger(__name__)

_MOST_ACCOUNT = 2**24 - 1
_MOST_CONVERSION = 2**32 - 1


class Mark(NamedTuple):
    """A conversion of the account may have changed."""

    user_id: int
    conv_id: int


class _MarkFields(msgspec.Struct):
    user_id: int
    conv_id: int


class JourneyMarkReader:
    """Called once a record. The topic is our own: a record that is no journey is counted, and loses nothing."""

    def __init__(self) -> None:
        self.unreadable = 0
        self._decode = msgspec.json.Decoder(_MarkFields).decode

    def __call__(self, record: SourceRecord) -> Arrival:
        mark: Mark | None = None
        try:
            fields = self._decode(record.value or b"")
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            self._count(record, str(error))
        else:
            if 0 < fields.user_id <= _MOST_ACCOUNT and 0 < fields.conv_id <= _MOST_CONVERSION:
                mark = Mark(fields.user_id, fields.conv_id)
            else:
                self._count(record, "an id is out of range")
        # Without its value: a buffer of journeys would be large, and nobody asks again what they held.
        return Arrival(replace(record, value=None), record.timestamp // 1000, mark)

    def _count(self, record: SourceRecord, reason: str) -> None:
        self.unreadable += 1
        log.warning("%s [%s] offset %s is no journey: %s", record.topic, record.partition, record.offset, reason)
