"""What the journeys agent does with a chunk: facts, outputs, states, and what is left for the next owner."""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace

import msgspec
import pytest
from aiokafka.structs import ConsumerRecord
from hypothesis import given
from hypothesis import strategies as st

from stream.agents.journeys import JourneysHandler, JourneysSettings
from stream.agents.outputs import TopicNames
from stream.agents.reading import EventReader
from stream.agents.unsettled import unsettled_of, unsettled_texts
from stream.core.errors import Fenced, InvalidEvent, RefusedByDatabase, StartRefused, Unavailable
from stream.core.events import Click, Conversion
from stream.core.facts import Outcome
from stream.core.folding import Folded
from stream.core.keys import JourneyKey, partition_of, record_key
from stream.core.money import Units
from stream.engine.barrier import Stored
from stream.engine.chunk import Arrival, Chunk
from stream.engine.start import LogPlace
from stream.metrics import Metrics
from stream.wire.dead_letters import read_dead_letter
from stream.wire.encoding import encode_click, encode_conversion
from stream.wire.outgoing import OutgoingRecord, SentOn, sent_on_reason
from stream.wire.reasons import Reason
from tables.state.journeys import encode_key
from tests.agents.watched_store import WatchedStore

DAY = 86_400
NOW = 1_800_000_000
NAMES = TopicNames("t-clicks", "t-conversions", "t-journeys", 4, 2)
HOME = partition_of(1, 11, NAMES.partitions)
ELSEWHERE_CAMPAIGN = next(each for each in range(12, 99) if partition_of(1, each, NAMES.partitions) != HOME)
ELSEWHERE = partition_of(1, ELSEWHERE_CAMPAIGN, NAMES.partitions)
KEY = encode_key(JourneyKey(1, 11, ""))

CLICK = Click(5, 1, 11, NOW - 100, Units(0), "", 0, 0, 0, 0, 0, 0, 0, 0)
CONVERSION = Conversion(9, 5, 1, 11, NOW - 100, NOW - 50, Units(1_000_000), None, "", "", 0, 0, 0)


class Kept:
    """Remembered states; the barrier puts in what a chunk left."""

    def __init__(self) -> None:
        self.states: dict[int, dict[bytes, bytes]] = {}

    def get_state(self, partition: int, key: bytes) -> bytes | None:
        return self.states.get(partition, {}).get(key)

    def oldest_keys(self, partition: int, count: int) -> list[bytes]:
        return list(self.states.get(partition, {}))[:count]

    def put(self, partition: int, states: Mapping[bytes, bytes | None]) -> None:
        kept = self.states.setdefault(partition, {})
        for key, value in states.items():
            kept.pop(key, None)
            if value is not None:
                kept[key] = value


class RecordingCache:
    def __init__(self) -> None:
        self.deleted: list[int] = []

    async def delete(self, conv_ids: Sequence[int]) -> int:
        self.deleted += conv_ids
        return 1


class Agent:
    """A handler with everything around it; offsets count up over all its chunks."""

    def __init__(self, store: WatchedStore) -> None:
        self.kept = Kept()
        self.cache = RecordingCache()
        self.metrics = Metrics()
        self.store = store
        self.offset = 0
        self.begins = 0
        self.history_from = 0
        self.now = NOW
        self.handler = JourneysHandler(
            NAMES,
            store,
            JourneysSettings(owner=store.owner, lookback=30 * DAY),
            states=lambda: self.kept,
            cache=self.cache,
            metrics=self.metrics,
            log_place=self._log_place,
            clock=lambda: self.now,
        )
        self._read = EventReader(clicks=NAMES.clicks, conversions=NAMES.conversions, partitions=NAMES.partitions)

    async def _log_place(self, partition: int, committed: Mapping[str, int | None]) -> LogPlace:
        topics = (NAMES.clicks, NAMES.conversions)
        return LogPlace(
            partitions=NAMES.partitions,
            topic_ids=dict.fromkeys(topics, "id"),
            committed=committed,
            begins=dict.fromkeys(topics, self.begins),
            ends=dict.fromkeys(topics, 1_000_000),
            history_from=self.history_from,
        )

    def chunk(self, *contents: Click | Conversion | bytes | None, partition: int = HOME) -> Chunk:
        """Bytes are the value of a record of clicks."""
        arrivals = []
        for content in contents:
            topic = NAMES.conversions if isinstance(content, Conversion) else NAMES.clicks
            arrivals.append(self._arrival(topic, _value_of(content), partition))
        return Chunk(partition, 1, arrivals, {NAMES.clicks: self.offset, NAMES.conversions: self.offset})

    def _arrival(self, topic: str, value: bytes | None, partition: int) -> Arrival:
        self.offset += 1
        headers = (("from", b"outside"),)
        return self._read(
            ConsumerRecord(topic, partition, self.offset - 1, NOW * 1000, 1, b"key", value, None, 0, 0, headers)
        )

    async def work(self, chunk: Chunk, *, is_repeated: bool = False) -> Stored:
        """As the barrier does it, up to the changelog."""
        stored = await self.handler.store(chunk, is_repeated=is_repeated)
        self.kept.put(chunk.partition, stored.states)
        return stored

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"touchstream_{name}", labels) or 0


def _value_of(content: Click | Conversion | bytes | None) -> bytes | None:
    if isinstance(content, Click):
        return encode_click(content)
    return encode_conversion(content) if isinstance(content, Conversion) else content


def touches(store: WatchedStore, conv_id: int) -> list[int]:
    return [touch.click_id for touch in store.facts.journeys[conv_id].touches]


def unsettled(store: WatchedStore, partition: int = HOME) -> list[str]:
    return list(store.rows[partition].unsettled_keys)


@pytest.fixture
def store() -> WatchedStore:
    return WatchedStore("worker-1")


@pytest.fixture
async def agent(store: WatchedStore) -> Agent:
    made = Agent(store)
    for partition in range(NAMES.partitions):
        await made.handler.take(partition, {NAMES.clicks: None, NAMES.conversions: None})
    return made


# Facts, states and progress


async def test_a_journey_is_stored_published_and_deleted_from_the_cache(agent: Agent, store: WatchedStore) -> None:
    stored = await agent.work(agent.chunk(CLICK, CONVERSION))
    assert touches(store, 9) == [5]
    (record,) = stored.outputs
    journey = msgspec.json.decode(record.value or b"")
    assert (record.topic, record.key, journey["conv_id"], journey["version"]) == ("t-journeys", b"1", 9, 1)
    assert [touch["click_id"] for touch in journey["touches"]] == [5]
    assert record.partition in range(NAMES.journeys_partitions)
    assert stored.cached == [9]
    await agent.handler.delete_cached(stored)
    assert agent.cache.deleted == [9]
    assert agent.metric("cache_failures_total") == 1


async def test_the_state_of_a_key_serves_the_next_chunk_without_sql(agent: Agent, store: WatchedStore) -> None:
    # The click is told to SQL and to the state; a second conversion finds it in the state.
    await agent.work(agent.chunk(CLICK, CONVERSION))
    assert KEY in agent.kept.states[HOME]
    before = agent.metric("sql_lookups_total", reason="unknown_keys")
    await agent.work(agent.chunk(CONVERSION._replace(conv_id=10, conv_time=NOW - 40)))
    assert touches(store, 10) == [5]
    assert agent.metric("sql_lookups_total", reason="unknown_keys") == before


async def test_a_chunk_moves_offsets_watermark_and_newest_conversion_and_never_back(
    agent: Agent, store: WatchedStore
) -> None:
    await agent.work(agent.chunk(CLICK, CONVERSION))
    await agent.work(agent.chunk(CLICK._replace(click_id=6, click_time=NOW - 5_000)))
    await agent.work(agent.chunk())
    row = store.rows[HOME]
    assert row.next_offsets == {NAMES.clicks: 3, NAMES.conversions: 3}
    assert (row.watermark, row.newest_conversion) == (CONVERSION.conv_time, CONVERSION.conv_time)


def at_the_end(chunk: Chunk) -> Chunk:
    return replace(chunk, is_last=True)


async def test_a_chunk_with_nothing_behind_it_tells_when_that_was(agent: Agent, store: WatchedStore) -> None:
    await agent.work(agent.chunk(CLICK))
    assert store.rows[HOME].drained_at == 0
    await agent.work(at_the_end(agent.chunk(CONVERSION)))
    assert store.rows[HOME].drained_at == NOW
    agent.now += 60
    await agent.work(agent.chunk(CLICK))
    assert store.rows[HOME].drained_at == NOW
    # How long the first try took nobody knows: much may lie behind the chunk by now.
    await agent.work(at_the_end(agent.chunk()), is_repeated=True)
    assert store.rows[HOME].drained_at == NOW


async def test_a_tick_tells_the_time_and_changes_nothing_else(agent: Agent, store: WatchedStore) -> None:
    await agent.work(agent.chunk(CLICK, CONVERSION))
    before, states = store.rows[HOME], dict(agent.kept.states[HOME])
    agent.now += 20
    stored = await agent.work(at_the_end(agent.chunk()))
    assert stored == Stored()
    assert store.rows[HOME] == replace(before, drained_at=NOW + 20, unsettled_keys=())
    assert agent.kept.states[HOME] == states
    await agent.handler.note_sent(stored)


async def test_a_tick_of_a_lost_partition_is_fenced(agent: Agent, store: WatchedStore) -> None:
    await store.as_other("worker-2").take_over(HOME, owner="worker-2", topic_ids={}, partition_count=1, history_from=0)
    with pytest.raises(Fenced):
        await agent.work(at_the_end(agent.chunk()))


async def test_a_chunk_that_was_not_stored_has_moved_nothing(agent: Agent, store: WatchedStore) -> None:
    chunk = agent.chunk(CLICK, CONVERSION)
    store.failures = [Unavailable("gone")]
    with pytest.raises(Unavailable):
        await agent.work(chunk)
    assert (store.facts.clicks, store.facts.journeys, store.rows[HOME].next_offsets) == ({}, {}, {})
    await agent.work(chunk, is_repeated=True)
    assert touches(store, 9) == [5]


async def test_a_chunk_delivered_twice_leaves_the_same_and_tells_it_again(agent: Agent, store: WatchedStore) -> None:
    chunk = agent.chunk(CLICK, CONVERSION)
    first = await agent.work(chunk)
    facts = store.facts.copy()
    second = await agent.work(chunk)
    assert (store.facts.clicks, store.facts.journeys) == (facts.clicks, facts.journeys)
    assert (second.outputs, second.states, second.cached) == (first.outputs, first.states, first.cached)


async def test_keys_that_no_conversion_can_need_are_forgotten(agent: Agent) -> None:
    old = CLICK._replace(click_time=NOW - 40 * DAY)
    await agent.work(agent.chunk(old))
    assert KEY in agent.kept.states[HOME]
    campaign = next(each for each in range(12, 99) if partition_of(1, each, NAMES.partitions) == HOME)
    stored = await agent.work(agent.chunk(CLICK._replace(click_id=6, campaign_id=campaign)))
    assert stored.states[KEY] is None
    assert list(agent.kept.states[HOME]) == [encode_key(JourneyKey(1, campaign, ""))]


async def test_an_idle_key_that_the_chunk_itself_touches_stays(agent: Agent) -> None:
    await agent.work(agent.chunk(CLICK._replace(click_time=NOW - 40 * DAY)))
    stored = await agent.work(agent.chunk(CLICK._replace(click_id=6)))
    assert stored.states[KEY] is not None


# Outputs of each kind


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


# What is left for the next owner, or the next try


async def revised(agent: Agent, store: WatchedStore) -> Chunk:
    """A click and its conversion are stored; the chunk moves the click out of the campaign's keyless journey."""
    await agent.work(agent.chunk(CLICK._replace(visitor_id="v"), CONVERSION))
    assert unsettled(store) == []
    return agent.chunk(CLICK._replace(visitor_id="w", revised_at=1))


async def test_a_chunk_leaves_word_of_what_a_crash_would_make_wrong(agent: Agent, store: WatchedStore) -> None:
    await agent.work(await revised(agent, store))
    assert unsettled(store) == ["key 1:11:v", "conversion 9"]
    await agent.work(agent.chunk())
    assert unsettled(store) == []


async def test_the_next_owner_forgets_those_keys_and_sends_on_those_conversions(
    agent: Agent, store: WatchedStore
) -> None:
    await agent.work(await revised(agent, store))
    other = Agent(store.as_other("worker-2"))
    taken = await other.handler.take(HOME, {NAMES.clicks: None, NAMES.conversions: None})
    assert (taken.epoch, list(taken.forget)) == (2, [b"1:11:v"])
    (record,) = taken.outputs
    assert isinstance(record, OutgoingRecord)
    assert (record.topic, record.partition) == ("t-conversions", HOME)
    assert record.value == encode_conversion(CONVERSION)
    assert sent_on_reason(record.headers) is SentOn.CLICK
    with pytest.raises(Fenced):
        await agent.work(agent.chunk(CLICK))


async def test_after_a_lost_reply_the_repeated_chunk_trusts_no_state_that_it_had_made_wrong(
    agent: Agent, store: WatchedStore
) -> None:
    chunk = await revised(agent, store)
    remembered = dict(agent.kept.states[HOME])
    assert b"1:11:v" in remembered
    store.database.loses_replies = 1
    with pytest.raises(Unavailable):
        await agent.work(chunk)
    assert agent.kept.states[HOME] == remembered
    # It was committed, so SQL has the new click already, and the fold cannot see what the old one was.
    stored = await agent.work(chunk, is_repeated=True)
    assert b"1:11:v" in stored.states
    assert stored.states[b"1:11:v"] is None
    assert b"1:11:v" not in agent.kept.states[HOME]
    # Nobody heard of the outputs of the first try: the conversion's journey is computed and told again.
    (output,) = stored.outputs
    assert msgspec.json.decode(output.value or b"")["conv_id"] == 9
    assert unsettled(store) == ["key 1:11:v", "conversion 9"]


async def test_after_a_lost_reply_a_conversion_that_the_click_has_left_is_sent_on(
    agent: Agent, store: WatchedStore
) -> None:
    # Click 6 was in the journey of conversion 9 and is moved to a visitor of its own, which the repetition cannot see.
    other = CLICK._replace(click_id=6, click_time=NOW - 200)
    await agent.work(agent.chunk(other, CLICK, CONVERSION))
    assert touches(store, 9) == [6, 5]
    chunk = agent.chunk(other._replace(visitor_id="w", revised_at=1))
    store.database.loses_replies = 1
    with pytest.raises(Unavailable):
        await agent.work(chunk)
    stored = await agent.work(chunk, is_repeated=True)
    assert [(each.topic, each.value, sent_on_reason(each.headers)) for each in stored.outputs] == [
        (NAMES.conversions, encode_conversion(CONVERSION), SentOn.CLICK)
    ]
    await agent.work(agent.chunk(CONVERSION))
    assert touches(store, 9) == [5]


async def test_a_lost_reply_ends_in_the_same_journeys_as_a_heard_one() -> None:
    ends = []
    for is_lost in (False, True):
        own = WatchedStore("w")
        agent = Agent(own)
        await agent.handler.take(HOME, {})
        chunk = await revised(agent, own)
        if is_lost:
            own.database.loses_replies = 1
            with pytest.raises(Unavailable):
                await agent.work(chunk)
        await agent.work(chunk, is_repeated=is_lost)
        await agent.work(agent.chunk(CONVERSION._replace(conv_id=10, visitor_id="v", click_id=99)))
        ends.append(({each: journey.touches for each, journey in own.facts.journeys.items()}, own.facts.clicks))
    assert ends[0] == ends[1]


async def test_a_start_that_does_not_fit_is_refused_and_raises_the_epoch(agent: Agent, store: WatchedStore) -> None:
    await agent.work(agent.chunk(CLICK))
    agent.begins = 500
    with pytest.raises(StartRefused, match="were removed before they were processed"):
        await agent.handler.take(HOME, {NAMES.clicks: 1, NAMES.conversions: 1})
    assert store.rows[HOME].epoch == 2


async def test_what_the_log_had_lost_before_anyone_read_it_leaves_journeys_incomplete(store: WatchedStore) -> None:
    agent = Agent(store)
    agent.history_from = NOW - DAY
    await agent.handler.take(HOME, {NAMES.clicks: None, NAMES.conversions: None})
    await agent.work(agent.chunk(CLICK, CONVERSION))
    assert store.facts.journeys[9].incomplete


keys = st.builds(
    JourneyKey,
    st.integers(1, 2**24 - 1),
    st.integers(1, 2**24 - 1),
    st.sampled_from(["", "conversion 7", "key 1:2", " v", "v\n", "1:2:3", "é😀"])
    | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9),
)


@given(
    st.frozensets(keys, max_size=4),
    st.frozensets(keys, max_size=4),
    st.frozensets(st.integers(1, 2**32)),
    st.frozensets(st.integers(1, 2**32)),
)
def test_what_is_unsettled_survives_its_texts(
    unsettled_keys: frozenset[JourneyKey],
    forgotten: frozenset[JourneyKey],
    restated: frozenset[int],
    restated_before: frozenset[int],
) -> None:
    folded = Folded([], {}, frozenset(), {}, unsettled_keys, restated, 0, frozenset(), [], [])
    texts = unsettled_texts(folded, frozenset(map(encode_key, forgotten)), restated_before)
    read = unsettled_of(msgspec.json.decode(msgspec.json.encode(texts)))
    assert read == (frozenset(map(encode_key, unsettled_keys | forgotten)), restated | restated_before)


async def test_a_chunk_that_commits_while_its_partition_is_taken_anew_does_not_bring_back_the_old_epoch(
    agent: Agent, store: WatchedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    transaction = store.transaction

    @contextlib.asynccontextmanager
    async def taken_behind_it() -> AsyncIterator[object]:
        async with transaction() as own:
            yield own
        monkeypatch.setattr(store, "transaction", transaction)
        await agent.handler.take(HOME, {})

    monkeypatch.setattr(store, "transaction", taken_behind_it)
    await agent.work(agent.chunk(CLICK))
    await agent.work(agent.chunk(CONVERSION))  # fenced, if it still thought itself of the old epoch
    assert touches(store, 9) == [5]
