"""State in memory: bounded, recovered in bulk, and never from a worker that had already lost the partition."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP
from hypothesis import given
from hypothesis import strategies as st

from stream.engine.app import EngineSettings, build_app
from stream.engine.changelog import KeptStates, StateTable
from stream.engine.chunk import Arrival
from stream.engine.consumer import Intake
from stream.engine.fetching import Fetched
from stream.wire.outgoing import OutgoingRecord
from tests.engine.arrivals import record

CHANGELOG = "app-state-changelog"


def kept_states(bound: int = 1000) -> KeptStates:
    """Faust's part of a store is not needed here but for the name of its changelog."""
    changelog: Any = SimpleNamespace(get_topic_name=lambda: CHANGELOG)
    belongs_to: Any = SimpleNamespace(changelog_topic=changelog)
    app: Any = SimpleNamespace()
    return KeptStates("memory://", app, belongs_to, table_name="state", bound=bound)


def value(epoch: int, content: bytes) -> bytes:
    return epoch.to_bytes(8, "big") + content


def mark(epoch: int, partition: int = 0) -> tuple[bytes, bytes]:
    return b"\0epoch:%d:%d" % (partition, epoch), value(epoch, b"")


def fetched(*pairs: tuple[bytes, bytes | None], partition: int = 0, start: int = 0) -> Fetched:
    records = [
        record(CHANGELOG, start + index, partition=partition, key=key, value=content)
        for index, (key, content) in enumerate(pairs)
    ]
    return Fetched(TP(CHANGELOG, partition), records, start, start + len(records))


def recovered(*pairs: tuple[bytes, bytes | None], bound: int = 1000) -> KeptStates:
    kept = kept_states(bound)
    kept.apply_fetched(fetched(*pairs))
    return kept


def contents(kept: KeptStates, partition: int = 0) -> dict[bytes, bytes]:
    return dict(kept.partitions.get(partition, {}))


# Written by chunks


def test_a_state_is_kept_until_it_is_overwritten_or_forgotten() -> None:
    kept = kept_states()
    kept.put_states(0, {b"a": b"1", b"b": b"2"})
    kept.put_states(0, {b"a": b"3", b"b": None, b"c": None})
    assert contents(kept) == {b"a": b"3"}
    assert (kept.get_state(0, b"a"), kept.get_state(0, b"b"), kept.get_state(1, b"a")) == (b"3", None, None)


def test_those_written_longest_ago_leave_first() -> None:
    kept = kept_states(bound=3)
    kept.put_states(0, {b"a": b"1", b"b": b"1", b"c": b"1"})
    kept.put_states(0, {b"a": b"2"})
    kept.put_states(0, {b"d": b"1", b"e": b"1"})
    assert contents(kept) == {b"a": b"2", b"d": b"1", b"e": b"1"}
    assert kept.evicted == 2


def test_reading_a_state_does_not_keep_it() -> None:
    kept = kept_states(bound=2)
    kept.put_states(0, {b"a": b"1", b"b": b"1"})
    assert kept.get_state(0, b"a") == b"1"
    kept.put_states(0, {b"c": b"1"})
    assert contents(kept) == {b"b": b"1", b"c": b"1"}


def test_the_bound_is_of_all_partitions_together() -> None:
    kept = kept_states(bound=3)
    kept.put_states(0, {b"a": b"1", b"b": b"1"})
    kept.put_states(1, {b"c": b"1", b"d": b"1"})
    assert len(kept) == 3
    assert (contents(kept, 0), contents(kept, 1)) == ({b"a": b"1", b"b": b"1"}, {b"d": b"1"})


def test_the_oldest_keys_are_those_written_longest_ago() -> None:
    kept = kept_states()
    kept.put_states(0, {b"a": b"1", b"b": b"1", b"c": b"1"})
    kept.put_states(0, {b"a": b"2"})
    assert kept.oldest_keys(0, 2) == [b"b", b"c"]
    assert kept.oldest_keys(0, 9) == [b"b", b"c", b"a"]
    assert kept.oldest_keys(5, 9) == []


# Recovered


def test_values_come_back_without_their_epoch_and_tombstones_forget() -> None:
    kept = recovered(mark(1), (b"a", value(1, b"x")), (b"b", value(1, b"y")), (b"a", None))
    assert contents(kept) == {b"b": b"y"}
    assert (kept.recovered, kept.stale_dropped) == (4, 0)


def test_a_value_of_an_older_epoch_after_a_newer_mark_forgets_its_key() -> None:
    kept = recovered(mark(2), (b"a", value(1, b"stale")), (b"b", value(2, b"good")))
    assert contents(kept) == {b"b": b"good"}
    assert kept.stale_dropped == 1


def test_a_stale_value_forgets_its_key_also_where_a_good_one_came_before() -> None:
    # Compaction may have removed the good one in another life of this log; both must come to the same.
    kept = recovered(mark(2), (b"a", value(2, b"good")), (b"a", value(1, b"stale")))
    assert contents(kept) == {}


def test_a_good_value_after_a_stale_one_counts() -> None:
    kept = recovered(mark(2), (b"a", value(1, b"stale")), (b"a", value(2, b"good")))
    assert contents(kept) == {b"a": b"good"}


def test_values_of_an_older_epoch_before_the_newer_mark_stay() -> None:
    kept = recovered(mark(1), (b"a", value(1, b"old")), mark(2), (b"b", value(2, b"new")))
    assert contents(kept) == {b"a": b"old", b"b": b"new"}


def test_a_mark_of_a_lower_epoch_changes_nothing() -> None:
    kept = recovered(mark(5), mark(3), (b"a", value(4, b"stale")), (b"b", value(5, b"good")))
    assert contents(kept) == {b"b": b"good"}


def test_the_epoch_outlasts_a_fetch_and_belongs_to_its_partition() -> None:
    kept = kept_states()
    kept.apply_fetched(fetched(mark(2)))
    kept.apply_fetched(fetched((b"a", value(1, b"stale")), start=1))
    kept.apply_fetched(fetched((b"a", value(1, b"good")), partition=1))
    assert (contents(kept, 0), contents(kept, 1)) == ({}, {b"a": b"good"})


def test_an_owner_that_stays_trusts_no_older_epoch_behind_its_own() -> None:
    """It does not read what it wrote itself, the beginning of its epoch among it; a sleeper may write behind that."""
    kept = recovered(mark(1))
    kept.begin_epoch(0, 2)
    kept.put_states(0, {b"a": b"new"})
    kept.apply_fetched(fetched((b"a", value(1, b"old")), start=3))
    assert contents(kept) == {}
    assert kept.stale_dropped == 1


def test_recovery_keeps_to_the_bound() -> None:
    kept = recovered(*((b"%d" % number, value(1, b"x")) for number in range(10)), bound=4)
    assert list(contents(kept)) == [b"6", b"7", b"8", b"9"]
    assert kept.evicted == 6


def test_recovery_passes_whole_fetches_through_faust_as_messages() -> None:
    kept = kept_states()
    batch = [SimpleNamespace(message=SimpleNamespace(value=fetched((b"a", value(1, b"x")))))]
    kept.apply_changelog_batch(batch, to_key=None, to_value=None)
    assert contents(kept) == {b"a": b"x"}


# Lost


async def test_a_revoked_partition_is_dropped_with_its_epoch_and_the_others_stay() -> None:
    kept = kept_states()
    for partition in (0, 1):
        kept.apply_fetched(fetched(mark(7), (b"a", value(7, b"x")), partition=partition))
    revoked = {TP(CHANGELOG, 0), TP("clicks", 1)}
    await kept.on_rebalance(assigned=set(), revoked=revoked, newly_assigned=set())
    assert (contents(kept, 0), contents(kept, 1)) == ({}, {b"a": b"x"})
    kept.apply_fetched(fetched((b"a", value(1, b"read from the start again"))))
    assert contents(kept, 0) == {b"a": b"read from the start again"}


def test_dropping_the_values_keeps_the_epoch() -> None:
    kept = recovered(mark(2), (b"a", value(2, b"x")))
    kept.drop_values()
    kept.apply_fetched(fetched((b"a", value(1, b"stale"))))
    assert contents(kept) == {}


def test_nothing_is_written_past_the_changelog() -> None:
    kept = kept_states()
    with pytest.raises(TypeError):
        kept[b"a"] = b"1"
    with pytest.raises(TypeError):
        del kept[b"a"]


# By property

KEYS = (b"a", b"b", b"c")
changelogs = st.lists(
    st.integers(1, 4).map(mark)
    | st.tuples(st.sampled_from(KEYS), st.none() | st.builds(value, st.integers(1, 4), st.binary(max_size=2))),
    max_size=20,
)


@given(changelogs, st.integers(1, 6))
def test_recovery_comes_to_the_same_however_the_changelog_is_fetched(
    pairs: list[tuple[bytes, bytes | None]], size: int
) -> None:
    kept = kept_states()
    for start in range(0, len(pairs), size):
        kept.apply_fetched(fetched(*pairs[start : start + size], start=start))
    assert contents(kept) == contents(recovered(*pairs))


@given(changelogs)
def test_compaction_changes_nothing_that_recovery_comes_to(pairs: list[tuple[bytes, bytes | None]]) -> None:
    marked: set[bytes] = set()
    once: list[tuple[bytes, bytes | None]] = []
    for key, content in pairs:
        if key not in marked:
            once.append((key, content))
        if key not in KEYS:
            marked.add(key)  # an owner writes the mark of its epoch once
    last = {key: index for index, (key, _) in enumerate(once)}
    compacted = [pair for index, pair in enumerate(once) if last[pair[0]] == index]
    assert contents(recovered(*compacted)) == contents(recovered(*once))


@given(
    st.lists(st.tuples(st.integers(0, 2), st.dictionaries(st.sampled_from(KEYS), st.none() | st.binary(max_size=2)))),
    st.integers(1, 5),
)
def test_the_bound_always_holds_and_the_last_write_is_never_lost_to_it(
    writes: list[tuple[int, dict[bytes, bytes | None]]], bound: int
) -> None:
    kept = kept_states(bound)
    for partition, states in writes:
        kept.put_states(partition, states)
        assert len(kept) <= max(bound, 0)
        newest = [key for key, content in states.items() if content is not None][-1:]
        room = bound - sum(len(one) for other, one in kept.partitions.items() if other != partition)
        assert all(kept.get_state(partition, key) == states[key] for key in newest if room > 0)


# How far the changelog need not be read again


class SlowOutbox:
    """Acknowledges once the door is open, at offset 100."""

    def __init__(self) -> None:
        self.door = asyncio.Event()

    async def send(self, records: Iterable[OutgoingRecord]) -> list[Any]:
        count = len(list(records))
        await self.door.wait()
        return [(SimpleNamespace(offset=100), count)]


def state_table(tmp_path: Path, outbox: SlowOutbox) -> tuple[StateTable, Any]:
    """Of an app as the worker builds it, with the partition 0 assigned; and what its recovery knows of offsets."""
    intake = Intake(("clicks", "conversions"), lambda one: Arrival(one, 0, None), 10, is_aligned=True)
    app = build_app(EngineSettings("app", ("127.0.0.1:1",), None, tmp_path, 1, 10, "state", intake))
    made, sends_through = app.state_table, lambda: outbox
    made.outbox = sends_through  # type: ignore[assignment]
    manager: Any = app.tables
    manager.recovery.active_tps.add(TP(CHANGELOG, 0))
    return made, manager.recovery.active_offsets


async def test_what_a_chunk_wrote_is_not_read_again(tmp_path: Path) -> None:
    outbox = SlowOutbox()
    made, offsets = state_table(tmp_path, outbox)
    outbox.door.set()
    await made.write(0, 1, {b"a": b"1", b"b": b"2"})
    assert offsets[TP(CHANGELOG, 0)] == 101


async def test_a_chunk_that_outlives_an_unclean_revoke_does_not_shorten_the_next_recovery(tmp_path: Path) -> None:
    outbox = SlowOutbox()
    made, offsets = state_table(tmp_path, outbox)
    writing = asyncio.ensure_future(made.write(0, 1, {b"a": b"1"}))
    await asyncio.sleep(0)
    made.forget_all()
    outbox.door.set()
    await writing
    assert TP(CHANGELOG, 0) not in offsets
    assert made.kept.get_state(0, b"a") is None


async def test_the_mark_of_an_epoch_hides_nothing_that_another_owner_wrote_before_it(tmp_path: Path) -> None:
    outbox = SlowOutbox()
    made, offsets = state_table(tmp_path, outbox)
    outbox.door.set()
    await made.begin_epoch(0, 1, [b"a"])
    assert TP(CHANGELOG, 0) not in offsets


def test_two_engines_of_a_process_have_bounds_of_their_own(tmp_path: Path) -> None:
    intake = Intake(("clicks", "conversions"), lambda one: Arrival(one, 0, None), 10, is_aligned=True)
    apps = [
        build_app(EngineSettings(f"app{bound}", ("127.0.0.1:1",), None, tmp_path, 1, bound, name, intake))
        for bound, name in ((10, "state"), (20, "state"), (0, ""))
    ]
    assert [app.state_table.kept.bound for app in apps[:2]] == [10, 20]
    assert [len(app.tables) for app in apps] == [1, 1, 0]
