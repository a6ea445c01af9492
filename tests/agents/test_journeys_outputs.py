"""What the journeys agent sends: journeys, dead letters, and events to where they belong."""

from stream.core.errors import InvalidEvent, RefusedByDatabase
from stream.core.facts import Outcome
from stream.core.keys import partition_of, record_key
from stream.wire.dead_letters import read_dead_letter
from stream.wire.encoding import encode_click, encode_conversion
from stream.wire.outgoing import SentOn, sent_on_reason
from stream.wire.reasons import Reason
from tests.agents.journeys_desk import CLICK, CONVERSION, ELSEWHERE, ELSEWHERE_CAMPAIGN, HOME, NAMES, NOW, Agent
from tests.agents.watched_store import WatchedStore


async def test_what_cannot_be_read_becomes_a_dead_letter_with_all_that_it_was(agent: Agent) -> None:
    stored = await agent.work(agent.chunk(b"{", CLICK))
    (record,) = stored.outputs
    assert (record.topic, record.value) == ("t-clicks-dead-letters", b"{")
    letter = read_dead_letter(record.key, record.value, record.headers)
    assert letter is not None
    assert (letter.reason, letter.key, letter.value) == (Reason.UNREADABLE_JSON, b"key", b"{")
    assert letter.headers == (("from", b"outside"),)
    assert letter.origin == ("t-clicks", HOME, 0, NOW * 1000)
    assert agent.metric("dead_letters_total", topic="t-clicks", reason="unreadable_json") == 1
    assert agent.store.facts.clicks == {5: CLICK}


async def test_an_event_of_another_partition_is_sent_there_as_it_is(agent: Agent, store: WatchedStore) -> None:
    stored = await agent.work(agent.chunk(CLICK, partition=ELSEWHERE))
    (record,) = stored.outputs
    assert (record.topic, record.partition, record.key) == ("t-clicks", HOME, record_key(1, 11))
    assert record.value == encode_click(CLICK)
    assert sent_on_reason(record.headers) is SentOn.PARTITION
    assert ("from", b"outside") in record.headers
    assert agent.metric("misrouted_total", topic="t-clicks") == 1
    assert store.facts.clicks == {}


async def test_an_id_that_moves_to_another_user_or_campaign_is_dead_lettered(agent: Agent, store: WatchedStore) -> None:
    same_place = [each for each in range(12, 99) if partition_of(1, each, NAMES.partitions) == HOME]
    await agent.work(agent.chunk(CLICK, CONVERSION))
    moved = CLICK._replace(campaign_id=same_place[0], revised_at=9)
    moved_conversion = CONVERSION._replace(click_id=77, revised_at=9)
    stored = await agent.work(agent.chunk(moved, moved_conversion))
    letters = [read_dead_letter(each.key, each.value, each.headers) for each in stored.outputs]
    assert [(letter.reason, letter.origin.topic) for letter in letters if letter] == [
        (Reason.REKEYED, "t-clicks"),
        (Reason.REKEYED, "t-conversions"),
    ]
    assert store.facts.clicks[5] == CLICK
    assert agent.metric("dead_letters_total", topic="t-conversions", reason="rekeyed") == 1


async def test_a_conversion_of_another_partition_is_sent_on_once_its_click_is_here(
    agent: Agent, store: WatchedStore
) -> None:
    conversion = CONVERSION._replace(campaign_id=ELSEWHERE_CAMPAIGN)
    await agent.work(agent.chunk(conversion, partition=ELSEWHERE))
    assert store.facts.journeys[9].click_unknown
    stored = await agent.work(agent.chunk(CLICK))
    (record,) = stored.outputs
    assert (record.topic, record.partition) == ("t-conversions", ELSEWHERE)
    assert (record.key, record.value) == (record_key(1, ELSEWHERE_CAMPAIGN), encode_conversion(conversion))
    assert sent_on_reason(record.headers) is SentOn.CLICK
    assert agent.metric("sent_on_total", cause="click") == 1
    await agent.work(agent.chunk(conversion, partition=ELSEWHERE))
    assert not store.facts.journeys[9].click_unknown


async def test_a_record_that_the_database_refuses_is_read_as_one_to_dead_letter(
    agent: Agent, store: WatchedStore
) -> None:
    chunk = agent.handler.refused(agent.chunk(CLICK), RefusedByDatabase("no such value"))
    (arrival,) = chunk.arrivals
    assert isinstance(arrival.content, InvalidEvent)
    stored = await agent.work(chunk)
    (record,) = stored.outputs
    letter = read_dead_letter(record.key, record.value, record.headers)
    assert letter is not None
    assert (letter.reason, letter.value) == (Reason.REFUSED_BY_DATABASE, encode_click(CLICK))
    assert "no such value" in letter.error
    assert store.facts.clicks == {}
    assert store.rows[HOME].next_offsets == chunk.next_offsets


async def test_a_second_report_of_one_payment_counts_once(agent: Agent, store: WatchedStore) -> None:
    paid = CONVERSION._replace(transaction_id="t")
    await agent.work(agent.chunk(CLICK, paid))
    stored = await agent.work(agent.chunk(paid._replace(conv_id=8, conv_time=NOW - 60)))
    outcomes = {conv_id: journey.outcome for conv_id, journey in store.facts.journeys.items()}
    assert outcomes == {8: Outcome.COUNTED, 9: Outcome.DUPLICATE}
    assert sorted(stored.cached) == [8, 9]
