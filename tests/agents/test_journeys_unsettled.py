"""What a chunk of the journeys agent leaves for the next owner, or for the next try."""

import contextlib
from collections.abc import AsyncIterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.agents.unsettled import unsettled_of, unsettled_texts
from stream.core.errors import Fenced, StartRefused, Unavailable
from stream.core.folding import Folded
from stream.core.keys import JourneyKey
from stream.engine.chunk import Chunk
from stream.wire.encoding import encode_conversion
from stream.wire.outgoing import OutgoingRecord, SentOn, sent_on_reason
from tables.state.journeys import encode_key
from tests.agents.journeys_desk import (
    CLICK,
    CONVERSION,
    DAY,
    HOME,
    NAMES,
    NOW,
    Agent,
    touches,
    unsettled,
)
from tests.agents.watched_store import WatchedStore


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
