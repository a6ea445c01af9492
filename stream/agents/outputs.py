"""What leaves with a chunk: journeys, dead letters, records on their way to their own partition."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stream.agents.reading import Misplaced
from stream.core.errors import InvalidEvent
from stream.core.events import Click, Conversion
from stream.core.facts import Journey
from stream.core.folding import Folded
from stream.core.keys import partition_of, partition_of_account, record_key
from stream.core.second_look import SentOn
from stream.engine.chunk import Arrival
from stream.wire.dead_letters import Origin, dead_letter
from stream.wire.encoding import encode_conversion, encode_journey, journey_record_key
from stream.wire.outgoing import OutgoingRecord, sent_on
from stream.wire.outgoing import SentOn as SentOnCause
from stream.wire.reasons import Reason


@dataclass(frozen=True, slots=True)
class TopicNames:
    """Of one installation, prefix included, with their partition counts."""

    clicks: str
    conversions: str
    journeys: str
    partitions: int  # of clicks and conversions
    journeys_partitions: int


@dataclass(slots=True)
class SortedChunk:
    """The arrivals of a chunk by what is to be done with them."""

    clicks: list[Arrival]
    conversions: list[Arrival]
    refused: list[tuple[Arrival, InvalidEvent]]
    misplaced: list[Arrival]


def sort_chunk(arrivals: Sequence[Arrival]) -> SortedChunk:
    events = SortedChunk([], [], [], [])
    for arrival in arrivals:
        content: Any = arrival.content
        if type(content) is Click:
            events.clicks.append(arrival)
        elif type(content) is Conversion:
            events.conversions.append(arrival)
        elif type(content) is Misplaced:
            events.misplaced.append(arrival)
        else:
            events.refused.append((arrival, content))
    return events


def chunk_outputs(
    names: TopicNames, events: SortedChunk, folded: Folded, found: Sequence[SentOn]
) -> list[OutgoingRecord]:
    refused = [*events.refused, *rekeyed(events, folded)]
    return [
        *(_dead_letter(arrival, error) for arrival, error in refused),
        *(_sent_to_its_partition(arrival) for arrival in events.misplaced),
        *(conversion_sent_on(names, each) for each in found),
        *journey_records(names, folded),
    ]


def journey_records(names: TopicNames, folded: Folded) -> list[OutgoingRecord]:
    return [
        journey_record(names, journey, folded.previous_hours.get(journey.conversion.conv_id))
        for journey in folded.journeys
    ]


def journey_record(names: TopicNames, journey: Journey, previous_hour: int | None = None) -> OutgoingRecord:
    partition = partition_of_account(journey.conversion.user_id, names.journeys_partitions)
    value = encode_journey(journey, previous_hour)
    return OutgoingRecord(names.journeys, partition, journey_record_key(journey), value, ())


def conversion_sent_on(names: TopicNames, found: SentOn) -> OutgoingRecord:
    conversion = found.conversion
    record = OutgoingRecord(
        names.conversions,
        partition_of(conversion.user_id, conversion.campaign_id, names.partitions),
        record_key(conversion.user_id, conversion.campaign_id),
        encode_conversion(conversion),
        (),
    )
    return sent_on(record, SentOnCause(found.cause))


def rekeyed(events: SortedChunk, folded: Folded) -> list[tuple[Arrival, InvalidEvent]]:
    error = InvalidEvent(Reason.REKEYED, "the id is stored with another user, campaign or click")
    arrivals = [events.clicks[index] for index in folded.rekeyed_clicks]
    arrivals += [events.conversions[index] for index in folded.rekeyed_conversions]
    return [(arrival, error) for arrival in arrivals]


def _dead_letter(arrival: Arrival, error: InvalidEvent) -> OutgoingRecord:
    record = arrival.record
    origin = Origin(record.topic, record.partition, record.offset, record.timestamp)
    return dead_letter(origin, error, key=record.key, value=record.value, headers=tuple(record.headers))


def _sent_to_its_partition(arrival: Arrival) -> OutgoingRecord:
    record = arrival.record
    event, partition = arrival.content
    key = record_key(event.user_id, event.campaign_id)
    unchanged = OutgoingRecord(record.topic, partition, key, record.value, tuple(record.headers))
    return sent_on(unchanged, SentOnCause.PARTITION)
