"""Which journey, and which partition, an event belongs to."""

from functools import lru_cache
from typing import NamedTuple

from stream.core.events import Click, Conversion

NO_VISITOR = ""


class JourneyKey(NamedTuple):
    """Clicks of one key can be touches of one journey. Without a visitor, all clicks of the campaign are."""

    user_id: int
    campaign_id: int
    visitor_id: str

    @property
    def names_visitor(self) -> bool:
        return self.visitor_id != NO_VISITOR


def journey_key_of_click(click: Click) -> JourneyKey:
    return JourneyKey(click.user_id, click.campaign_id, click.visitor_id)


def journey_key_of_conversion(conversion: Conversion, converting: Click | None) -> JourneyKey:
    """A postback often knows just the click: the click's visitor comes first, then the conversion's own."""
    visitor_id = (converting.visitor_id if converting else NO_VISITOR) or conversion.visitor_id
    return JourneyKey(conversion.user_id, conversion.campaign_id, visitor_id)


def record_key(user_id: int, campaign_id: int) -> bytes:
    """The key of a source record in clear text, `user:campaign`."""
    return b"%d:%d" % (user_id, campaign_id)


@lru_cache(maxsize=1 << 18)
def partition_of(user_id: int, campaign_id: int, partitions: int) -> int:
    """The partition of a source topic, the same as Kafka's default partitioner gives for the record key."""
    return (murmur2(record_key(user_id, campaign_id)) & 0x7FFFFFFF) % partitions


@lru_cache(maxsize=1 << 16)
def partition_of_account(user_id: int, partitions: int) -> int:
    """The partition of journeys, snapshots and credits: Kafka's default partitioner, given the account's id as text."""
    return (murmur2(b"%d" % user_id) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """32-bit MurmurHash2 with Kafka's seed, as in org.apache.kafka.common.utils.Utils; unsigned."""
    mask, multiplier = 0xFFFFFFFF, 0x5BD1E995
    length = len(data)
    state = (0x9747B28C ^ length) & mask
    whole = length - length % 4
    for start in range(0, whole, 4):
        word = int.from_bytes(data[start : start + 4], "little") * multiplier & mask
        word = (word ^ word >> 24) * multiplier & mask
        state = state * multiplier & mask ^ word
    if length > whole:
        state = (state ^ int.from_bytes(data[whole:], "little")) * multiplier & mask
    state = (state ^ state >> 13) * multiplier & mask
    return state ^ state >> 15
