"""In which order do the rows of an installation come out, and which of several rows of a click? On a real MariaDB."""

import random
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest

from stream.commands import import_order
from stream.commands.import_order import ClickLane, ConversionLane, in_order, share_memory
from stream.commands.import_passes import DryWay, Passing, first_pass, first_place, send_new
from stream.commands.import_place import Place, Range
from stream.commands.import_report import Telling
from stream.commands.import_source import Entry, LeftOut, SourceEvents, click_entry, conversion_entry
from stream.core.errors import InvalidEvent
from stream.core.events import Click, click_rank
from stream.wire.installed_rows import click_of_row, conversion_of_row
from tables.sql.connections import Row
from tables.sql.installed import InstalledTables, SourceUnfit
from tables.sql.installed_address import source_address
from tests.support.prosper202 import Prosper202, installed

BASE = 1_790_000_000


class Recording(InstalledTables):
    """Keeps the statements that it ran."""

    def __init__(self, source: Prosper202) -> None:
        super().__init__(source_address(source.url))
        self.statements: list[str] = []

    async def _fetch(self, statement: str, parameters: Sequence[object] = ()) -> Sequence[Row]:
        self.statements.append(statement)
        return await super()._fetch(statement, parameters)


class Keeping(DryWay):
    """What was sent, and the last place that was noted; breaks before the given number of batches, if any."""

    def __init__(self, breaks_at: int = -1) -> None:
        self.batches: list[list[Entry]] = []
        self.place: Place | None = None
        self._breaks_at = breaks_at

    async def send(self, entries: Sequence[Entry]) -> None:
        if len(self.batches) == self._breaks_at:
            raise ConnectionError("the broker went away")
        self.batches.append(list(entries))

    async def note(self, place: Place) -> None:
        # As a copy, and as it would come back.
        self.place = Place(**{name: getattr(place, name) for name in Place.__dataclass_fields__})

    @property
    def entries(self) -> list[Entry]:
        return [entry for batch in self.batches for entry in batch]


@pytest.fixture
def source(mariadb_url: str) -> Iterator[Prosper202]:
    with installed(mariadb_url) as made:
        yield made


@pytest.fixture
async def tables_of_it(source: Prosper202) -> AsyncIterator[Recording]:
    opened = Recording(source)
    await opened.check()
    yield opened
    await opened.close()


def passing_of(opened: InstalledTables, way: DryWay, *, batch_size: int = 5000, wanted: Range | None = None) -> Passing:
    telling = Telling("source", is_silent=True, is_dry=True)
    return Passing(
        installed=opened,
        events=SourceEvents(opened, telling.left_out),
        way=way,
        telling=telling,
        wanted=wanted or Range(),
        batch_size=batch_size,
    )


def fill(source: Prosper202, *, seed: int, clicks: int = 400) -> None:
    """Ids and times in no order of each other, many rows in one second, many clicks with several rows."""
    chance = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for click_id in range(1, clicks + 1):
        for _ in range(chance.choice([1, 1, 1, 2, 3])):
            at = BASE + chance.choice([7, 7, chance.randrange(300)])
            row = {"click_id": click_id, "user_id": chance.choice([1, 1, 1, 2, 9]), "click_time": at}
            rows.append({**row, "aff_campaign_id": chance.choice([0, 10, 11]), "click_cpc": f"0.{chance.randrange(9)}"})
    source.add_clicks(*chance.sample(rows, len(rows)), *chance.sample(rows, 20))
    source.add_conversions(
        {"conv_id": 1, "conv_time": BASE + 120},  # others with greater ids come long before it
        *({"conv_id": number, "conv_time": BASE + number + chance.randrange(-9, 9)} for number in range(10, 200)),
    )


async def send_all_new(passing: Passing, place: Place) -> None:
    while not (await send_new(passing, place)).is_end:
        pass


def all_of(source: Prosper202) -> list[Entry]:
    """By brute force: all rows at once, sorted here."""
    clicks: dict[int, Click] = {}
    for row in source.rows(
        "SELECT click_id, user_id, aff_campaign_id, click_time, CAST(click_cpc AS CHAR), ppc_account_id, NULL,"
        " landing_page_id, NULL, NULL, click_bot, click_filtered FROM `202_clicks`"
    ):
        click = click_of_row(row)
        clicks[click.click_id] = max(clicks.get(click.click_id, click), click, key=click_rank)
    conversions = source.rows(
        "SELECT conv_id, click_id, user_id, campaign_id, click_time, conv_time, CAST(click_payout AS CHAR),"
        " transaction_id, NULL, deleted FROM `202_conversion_logs`"
    )
    return sorted(
        [*map(click_entry, clicks.values()), *(conversion_entry(conversion_of_row(row)) for row in conversions)]
    )


@pytest.mark.parametrize("page_rows", [2, 3, 50, 5000])
async def test_all_rows_come_in_strict_order_and_each_click_once_whatever_the_page(
    page_rows: int, source: Prosper202, tables_of_it: Recording
) -> None:
    fill(source, seed=page_rows)
    way = Keeping()
    passing = passing_of(tables_of_it, way, batch_size=page_rows)
    await first_pass(passing, await first_place(tables_of_it))
    assert way.entries == all_of(source)
    assert {len(batch) for batch in way.batches[:-1]} <= set(range(1, page_rows + 1))
    (count,) = source.rows("SELECT COUNT(*) FROM `202_clicks`")[0]
    assert passing.telling.left_out.doubles <= count - 400


async def test_conversions_whose_ids_run_ahead_of_their_times_by_less_than_the_window_come_in_order(
    source: Prosper202, tables_of_it: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_order, "LOOKAHEAD_ROWS", 20)
    times = [BASE + number + (15 if number % 16 == 0 else 0) for number in range(200)]
    source.add_conversions(*({"conv_id": number + 1, "conv_time": time} for number, time in enumerate(times)))
    events = SourceEvents(tables_of_it, LeftOut(print))
    lane = ConversionLane(tables_of_it, events, after_id=0, since=0, until=2**32 - 1, page_rows=10)
    most = 0
    found: list[int] = []
    async for entries in in_order([lane]):
        most = max(most, len(lane.entries) + len(entries))
        found += [entry.time for entry in entries]
    assert found == sorted(times)
    assert most <= 20 + 2 * 10, "the window is all that is kept"


async def test_a_pass_that_broke_off_goes_on_from_the_noted_place_and_loses_nothing(
    source: Prosper202, tables_of_it: Recording
) -> None:
    fill(source, seed=11)
    wanted = all_of(source)
    breaks_at = 0
    while True:  # before each batch in turn
        before, after = Keeping(breaks_at), Keeping()
        place = await first_place(tables_of_it)
        await before.note(place)
        try:
            await first_pass(passing_of(tables_of_it, before, batch_size=40), place)
        except ConnectionError:
            breaks_at += 1
        else:
            break
        assert before.place is not None
        await first_pass(passing_of(tables_of_it, after, batch_size=40), before.place)
        assert sorted({*before.entries, *after.entries}) == wanted, breaks_at
        again = {*before.entries} & {*after.entries}
        last_click = max((entry.time for entry in before.entries if isinstance(entry.event, Click)), default=0)
        assert all(entry.time >= last_click for entry in again if isinstance(entry.event, Click))
    assert breaks_at > 20


async def test_rows_that_come_during_the_first_pass_are_left_for_after_it(
    source: Prosper202, tables_of_it: Recording
) -> None:
    class WithNews(Keeping):
        async def send(self, entries: Sequence[Entry]) -> None:
            if not self.batches:
                source.add_clicks({"click_id": 21, "click_time": BASE - 9}, {"click_id": 22, "click_time": BASE + 99})
                source.add_conversions({"conv_id": 5, "conv_time": BASE - 9})
            await super().send(entries)

    source.add_clicks(*({"click_id": number, "click_time": BASE + number} for number in range(1, 21)))
    way = WithNews()
    passing = passing_of(tables_of_it, way, batch_size=3)
    place = await first_place(tables_of_it)
    await first_pass(passing, place)
    assert [entry.event_id for entry in way.entries] == [*range(1, 21)]
    await send_all_new(passing, place)
    assert sorted(way.entries) == all_of(source)


async def test_what_came_after_the_first_pass_comes_by_rising_id_and_in_order_where_a_page_is_full(
    source: Prosper202, tables_of_it: Recording
) -> None:
    source.add_clicks(*({"click_id": number, "click_time": BASE + number} for number in range(1, 11)))
    way = Keeping()
    passing = passing_of(tables_of_it, way, batch_size=7)
    place = await first_place(tables_of_it)
    await first_pass(passing, place)
    source.add_clicks(*({"click_id": number, "click_time": BASE + number} for number in range(11, 101)))
    source.add_clicks({"click_id": 14, "click_time": BASE + 14})
    source.add_conversions(*({"conv_id": number, "conv_time": BASE + 10 + 2 * number} for number in range(1, 50)))
    await send_all_new(passing, place)
    assert way.entries == all_of(source)
    assert (place.last_click, place.last_conversion) == (100, 49)


async def test_pages_without_any_event_do_not_end_an_import(source: Prosper202, tables_of_it: Recording) -> None:
    way = Keeping()
    passing = passing_of(tables_of_it, way, batch_size=3)
    place = await first_place(tables_of_it)
    await first_pass(passing, place)
    source.add_conversions(*({"conv_id": number, "campaign_id": 0} for number in range(1, 8)), {"conv_id": 9})
    source.add_clicks(*({"click_id": number, "click_time": BASE + number} for number in range(1, 11)))
    await send_all_new(passing, place)
    assert sorted(entry.event_id for entry in way.entries) == [1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 10]
    assert (place.last_click, place.last_conversion) == (10, 9)


async def test_what_is_left_out_is_counted_once_though_its_page_is_read_again_and_again(
    source: Prosper202, tables_of_it: Recording
) -> None:
    passing = passing_of(tables_of_it, Keeping(), batch_size=4)
    place = await first_place(tables_of_it)
    await first_pass(passing, place)
    source.add_clicks(*({"click_id": number, "click_time": BASE + number} for number in range(1, 41)))
    source.add_clicks({"click_id": 7, "click_time": BASE, "aff_campaign_id": 0}, {"click_id": 41, "user_id": 0})
    late = BASE + 1000  # all clicks come before
    source.add_conversions({"conv_id": 1, "conv_time": late}, {"conv_id": 2, "campaign_id": 0}, {"conv_id": 3})
    await send_all_new(passing, place)
    left_out = passing.telling.left_out
    assert (left_out.refused.total(), left_out.doubles) == (2, 1)


async def test_a_row_with_an_id_that_no_event_has_hides_no_new_ones(
    source: Prosper202, tables_of_it: Recording
) -> None:
    source.add_clicks({"click_id": 2**64 - 1}, {"click_id": 5})
    way = Keeping()
    passing = passing_of(tables_of_it, way, batch_size=3)
    place = await first_place(tables_of_it)
    await first_pass(passing, place)
    assert passing.telling.left_out.refused.total() == 1
    source.add_clicks({"click_id": 6}, {"click_id": 2**64 - 2})
    await send_all_new(passing, place)
    assert [entry.event_id for entry in way.entries] == [5, 6]


async def test_a_key_that_the_server_ignores_is_not_used(source: Prosper202, tables_of_it: Recording) -> None:
    source.execute("ALTER TABLE `202_clicks` ALTER INDEX `click_id` IGNORED")
    with pytest.raises(SourceUnfit, match="doesn't exist") as lost:
        await tables_of_it.clicks_after(0, limit=5)
    assert "Repeat the command" in lost.value.hint
    with pytest.raises(SourceUnfit, match=r"no key on \(click_id\)"):
        await tables_of_it.check()
    source.execute("ALTER TABLE `202_clicks` ADD KEY `by``id` (click_id, user_id)")
    await tables_of_it.check()
    assert len(await tables_of_it.clicks_after(0, limit=5)) == 0


async def test_the_clicks_of_an_account_may_be_gone_once_it_was_found(tables_of_it: Recording) -> None:
    assert await tables_of_it.time_range(77) is None


async def test_both_ends_of_the_range_are_included_and_nothing_else(
    source: Prosper202, tables_of_it: Recording
) -> None:
    fill(source, seed=3)
    for wanted in (Range(BASE + 50, BASE + 100), Range(since=BASE + 100), Range(until=BASE + 7)):
        way = Keeping()
        await first_pass(passing_of(tables_of_it, way, wanted=wanted), await first_place(tables_of_it))
        assert way.entries == [entry for entry in all_of(source) if entry.time in wanted]


async def test_every_page_is_read_from_a_key_and_none_is_sorted(source: Prosper202, tables_of_it: Recording) -> None:
    fill(source, seed=5, clicks=3000)
    source.add("202_clicks_advance", [_advance(number) for number in range(1, 3001)])
    source.execute("ANALYZE TABLE `202_clicks`, `202_conversion_logs`, `202_clicks_advance`")
    tables_of_it.statements.clear()
    lane = ClickLane(
        tables_of_it, SourceEvents(tables_of_it, LeftOut(print)), 1, since=0, until=2**32 - 1, newest_id=9999
    )
    share_memory([lane], 100)
    await lane.read()
    await tables_of_it.clicks_after(5, limit=100)
    await tables_of_it.clicks_up_to(2000, limit=100)
    await tables_of_it.conversions_after(5, limit=100)
    await tables_of_it.conversions_up_to(150, limit=100)
    await tables_of_it.next_user(1)
    keys = []
    for statement in tables_of_it.statements:
        plan = source.rows(f"EXPLAIN {statement}")
        for _, _, relation, kind, _, key, _, _, _, extra in plan:
            assert kind != "ALL", (statement, relation)
            assert "filesort" not in (extra or ""), statement
            assert "temporary" not in (extra or ""), statement
            keys.append(key)
    assert {"user_click_time", "click_id", "PRIMARY"} <= set(keys)


def _advance(click_id: int) -> dict[str, int]:
    names = ("keyword_id", "ip_id", "country_id", "region_id", "city_id", "platform_id", "browser_id", "device_id")
    return {"click_id": click_id, "text_ad_id": click_id % 7, **dict.fromkeys(names, 0)}


async def test_a_transaction_id_comes_as_its_text_whatever_the_type_of_its_column(
    source: Prosper202, tables_of_it: Recording
) -> None:
    for type_name in ("varchar(255) CHARACTER SET latin1", "varbinary(255)"):
        source.execute(
            "DELETE FROM `202_conversion_logs`", f"ALTER TABLE `202_conversion_logs` MODIFY transaction_id {type_name}"
        )
        source.add_conversions({"conv_id": 1, "transaction_id": "é"})
        (row,) = await tables_of_it.conversions_after(0, limit=5)
        assert conversion_of_row(row).transaction_id == "é"
    source.execute("UPDATE `202_conversion_logs` SET transaction_id = X'E9'")
    (row,) = await tables_of_it.conversions_after(0, limit=5)
    with pytest.raises(InvalidEvent, match="not UTF-8"):
        conversion_of_row(row)
