"""Each kind of need, asked of real servers."""

from stream.core.events import Click
from stream.core.facts import EnteredNeed, HistoryNeed, Journey, Moment, Needs, Touch, touch_of
from stream.core.keys import JourneyKey
from stream.core.money import Units
from tables.sql.database import Database
from tables.sql.facts import SqlFactStore
from tables.sql.journeys import read_journeys
from tests.sql.test_failures import store_on
from tests.support.memory_facts import MemoryFacts
from tests.support.sql_examples import click, conversion, journey

KEY = JourneyKey(7, 70, "")
EVER = Moment(2**32 - 1, 2**63 - 1)


async def keep(store: SqlFactStore, *clicks: Click, journeys: tuple[Journey, ...] = ()) -> None:
    async with store.transaction() as transaction:
        await transaction.claim_clicks(clicks)
        await transaction.write_journeys(journeys)


async def history(store: SqlFactStore, key: JourneyKey, until: Moment, limit: int = 25) -> list[Touch]:
    need = HistoryNeed(key, until, limit)
    return list((await store.read(Needs(histories=[need]))).histories[need])


async def test_no_need_asks_nothing(store: SqlFactStore) -> None:
    facts = await store.read(Needs())
    assert (facts.journeys, facts.clicks, facts.histories) == ({}, {}, {})


async def test_clicks_come_back_as_they_were(store: SqlFactStore) -> None:
    small, whole = 2**24 - 1, 2**32 - 1
    largest = Click(
        2**63 - 1, small, small, whole, Units(9_999_999), "x" * 255, small, small, small, small, small, 1, 1, whole
    )
    smallest = Click(1, 1, 0, 0, Units(-9_999_999), "", 0, 0, 0, 0, 0, 0, 0, 0)
    await keep(store, largest, smallest, click(2, click_cpc=Units(1)))
    facts = await store.read(Needs(clicks=frozenset([1, 2, 3, 2**63 - 1])))
    assert facts.clicks == {1: smallest, 2: click(2, click_cpc=Units(1)), 2**63 - 1: largest}


async def test_a_history_is_the_newest_first_and_bounded_by_time_then_id(store: SqlFactStore) -> None:
    clicks = [click(number, click_time=time) for number, time in [(1, 10), (5, 20), (6, 20), (9, 20), (2, 30)]]
    await keep(store, *clicks)
    one, five, six, nine, two = map(touch_of, clicks)
    assert await history(store, KEY, EVER) == [two, nine, six, five, one]
    assert await history(store, KEY, Moment(20, 6)) == [six, five, one]
    assert await history(store, KEY, Moment(20, 6), limit=2) == [six, five]
    assert await history(store, KEY, Moment(19, 2**63 - 1)) == [one]
    assert await history(store, KEY, Moment(9, 0)) == []


async def test_a_history_is_of_its_key_alone(store: SqlFactStore) -> None:
    mine = click(1, visitor_id="Zoë 🦊")
    await keep(
        store,
        mine,
        click(2),
        click(3, visitor_id="zoë 🦊"),
        click(4, visitor_id="Zoë 🦊", campaign_id=71),
        click(5, visitor_id="Zoë 🦊", user_id=8),
        click(6, visitor_id="Zoë 🐙"),
    )
    assert await history(store, JourneyKey(7, 70, "Zoë 🦊"), EVER) == [touch_of(mine)]
    assert await history(store, KEY, EVER) == [touch_of(click(2))]


async def test_bots_are_left_out_where_the_key_names_a_visitor(store: SqlFactStore) -> None:
    await keep(store, click(1, click_bot=1), click(2, click_bot=1, visitor_id="v"), click(3, visitor_id="v"))
    assert [touch.click_id for touch in await history(store, KEY, EVER)] == [1]
    assert [touch.click_id for touch in await history(store, JourneyKey(7, 70, "v"), EVER)] == [3]


async def test_many_histories_are_answered_each_for_itself(store: SqlFactStore) -> None:
    clicks = [click(number, campaign_id=number % 450, click_time=1000 + number) for number in range(1, 1351)]
    await keep(store, *clicks)
    needs = [HistoryNeed(JourneyKey(7, campaign, ""), Moment(1901, 0), 2) for campaign in range(500)]
    facts = await store.read(Needs(histories=needs))
    twin = MemoryFacts()
    twin.clicks = {each.click_id: each for each in clicks}
    assert facts.histories == twin.read(Needs(histories=needs)).histories


async def test_of_a_key_with_more_clicks_than_are_asked_for_the_newest_come_whatever_others_have(
    store: SqlFactStore,
) -> None:
    """Together they are less than was asked for, or more: two ways on MySQL, and one answer."""
    clicks = [click(number, click_time=1000 + number) for number in range(1, 8)]
    await keep(store, *clicks, click(9, campaign_id=71))
    newest = [touch_of(each) for each in (clicks[-1], clicks[-2])]
    for others in (2, 25):
        needs = [HistoryNeed(KEY, EVER, 2), HistoryNeed(JourneyKey(7, 71, ""), EVER, others)]
        facts = await store.read(Needs(histories=needs))
        assert [[*facts.histories[need]] for need in needs] == [newest, [touch_of(click(9, campaign_id=71))]]


async def test_conversions_are_found_by_id_and_by_click(store: SqlFactStore) -> None:
    journeys = tuple(journey(conversion(number, click_id=number // 2)) for number in range(1, 7))
    await keep(store, journeys=journeys)
    facts = await store.read(Needs(conversions=frozenset([1, 6, 99]), conversions_of_clicks=frozenset([2, 3, 50])))
    assert facts.journeys == {number: journeys[number - 1] for number in (1, 4, 5, 6)}


async def test_entered_conversions_are_those_of_the_key_with_both_ends_included(store: SqlFactStore) -> None:
    def stored(conv_id: int, conv_time: int, visitor_id: str = "", **fields: int) -> Journey:
        return journey(conversion(conv_id, conv_time=conv_time, **fields), visitor_id=visitor_id)

    journeys = (
        stored(1, 99),
        stored(2, 100),
        stored(3, 200),
        stored(4, 201),
        stored(5, 150, "v"),
        stored(6, 150, campaign_id=71),
        stored(7, 150, user_id=8),
    )
    await keep(store, journeys=journeys)
    both = await store.read(Needs(entered=[EnteredNeed(KEY, 100, 200)]))
    assert sorted(both.journeys) == [2, 3]
    needs = [EnteredNeed(KEY, 200, 300), EnteredNeed(JourneyKey(7, 70, "v"), 0, 2**32), EnteredNeed(KEY, 150, 200)]
    several = await store.read(Needs(entered=needs, conversions=frozenset([1])))
    assert several.journeys == {number: journeys[number - 1] for number in (1, 3, 4, 5)}


async def test_thousands_of_ids_are_asked_for_at_once(store: SqlFactStore) -> None:
    await keep(store, *(click(number) for number in range(1, 5001)))
    facts = await store.read(Needs(clicks=frozenset(range(0, 6001, 2)), conversions_of_clicks=frozenset(range(3000))))
    assert sorted(facts.clicks) == list(range(2, 5001, 2))


async def test_journeys_of_clicks_are_looked_up_where_reading_all_would_seem_cheaper(mariadb: Database) -> None:
    store = store_on(mariadb)
    await keep(store, journeys=tuple(journey(conversion(number, click_id=number)) for number in range(1, 2001)))
    async with mariadb.transaction() as connection:
        await connection.run("ANALYZE TABLE `202_stream_journeys`")
        assert len(await read_journeys(connection, "click_id", range(1, 900))) == 899
        ((_, scanned),) = await connection.fetch("SHOW SESSION STATUS LIKE 'Handler_read_rnd_next'")
    assert int(scanned) < 100


async def test_a_transaction_reads_what_it_wrote(store: SqlFactStore) -> None:
    async with store.transaction() as transaction:
        await transaction.claim_clicks([click(1)])
        await transaction.write_journeys([journey()])
        facts = await transaction.read(Needs(conversions=frozenset([1]), clicks=frozenset([1])))
    assert (facts.journeys, facts.clicks) == ({1: journey()}, {1: click(1)})
