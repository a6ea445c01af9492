"""Clicks, journeys, touchpoints and conversion logs: written, written again, and over what was there."""

from decimal import Decimal

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stream.core.events import Conversion
from stream.core.facts import Journey, Needs, Outcome, Touch
from stream.core.money import Units
from tables.sql.facts import SqlFactStore
from tests.sql.conftest import NOW, StoreFactory
from tests.support.rows import query
from tests.support.sql_examples import click, conversion, journey, touch

SMALL, WHOLE, BIG = 2**24 - 1, 2**32 - 1, 2**63 - 1

# Surrogates are no text, and the wire strips white space: everything else is somebody's visitor.
texts = st.one_of(
    st.sampled_from(
        ["", "'", '"', "\\", "\\'", "%s", "?", "a?b", "\x00", "a\x00b", "🦊", "Zoë", "--", "`", "\x1a", "\n"]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=255),
).map(str.strip)
touches = st.builds(Touch, *[st.integers(0, WHOLE), st.integers(1, BIG), *[st.integers(0, SMALL)] * 4])
conversions = st.builds(
    Conversion,
    conv_id=st.integers(1, WHOLE),
    click_id=st.integers(1, BIG),
    user_id=st.integers(1, SMALL),
    campaign_id=st.integers(1, SMALL),
    click_time=st.integers(0, 2**31 - 1),
    conv_time=st.integers(0, 2**31 - 1),
    click_payout=st.integers(-99_999_999_999, 99_999_999_999).map(Units),
    click_cpc=st.none() | st.integers(-9_999_999, 9_999_999).map(Units),
    visitor_id=texts,
    transaction_id=texts,
    aff_network_id=st.integers(0, SMALL),
    deleted=st.integers(0, 1),
    revised_at=st.integers(0, WHOLE),
)
journeys = st.builds(
    Journey,
    conversion=conversions,
    visitor_id=texts,
    outcome=st.sampled_from(Outcome),
    click_unknown=st.booleans(),
    incomplete=st.booleans(),
    click_cpc=st.integers(-9_999_999, 9_999_999).map(Units),
    ppc_account_id=st.integers(0, SMALL),
    aff_network_id=st.integers(0, SMALL),
    touches=st.lists(touches, max_size=26).map(tuple),
    version=st.integers(1, WHOLE),
)


async def write(store: SqlFactStore, *journeys: Journey, displaced: tuple[int, ...] = ()) -> None:
    async with store.transaction() as transaction:
        await transaction.write_journeys(journeys, displaced=displaced)


def touchpoints(url: str) -> list[tuple[object, ...]]:
    return query(
        url, "SELECT conv_id, position, click_id, click_time FROM `202_conversion_touchpoints` ORDER BY touchpoint_id"
    )


def logs(url: str) -> list[tuple[object, ...]]:
    return query(url, "SELECT conv_id, click_id, transaction_id FROM `202_conversion_logs` ORDER BY conv_id")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(written=st.lists(journeys, min_size=1, max_size=5, unique_by=lambda each: each.conversion.conv_id))
async def test_a_journey_comes_back_as_it_was(store_of: StoreFactory, written: list[Journey]) -> None:
    store = store_of(writes_conversion_logs=False)
    async with store.transaction() as transaction:  # a conversion of the example before may have another account now
        await transaction._connection.run("DELETE FROM `202_stream_journeys`")
    await write(store, *written)
    ids = frozenset(each.conversion.conv_id for each in written)
    facts = await store.read(Needs(conversions=ids))
    assert facts.journeys == {each.conversion.conv_id: each for each in written}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(visitor=texts, transaction=texts)
async def test_texts_are_stored_as_other_readers_expect_them(
    store: SqlFactStore, schema_url: str, visitor: str, transaction: str
) -> None:
    async with store.transaction() as opened:
        await opened.replace_clicks([click(1, visitor_id=visitor)])
        await opened.write_journeys([journey(conversion(1, transaction_id=transaction))])
    assert query(schema_url, "SELECT visitor_id FROM `202_stream_clicks`") == [(visitor,)]
    assert logs(schema_url) == [(1, 1, transaction or None)]


async def test_writing_twice_leaves_what_writing_once_does(store: SqlFactStore, schema_url: str) -> None:
    written = [
        journey(conversion(2, click_id=3, transaction_id="t"), touches=(touch(1, 10), touch(3, 20))),
        journey(conversion(1, click_id=4), touches=(touch(4, 30),)),
    ]
    for _ in range(2):
        await write(store, *written)
        assert touchpoints(schema_url) == [(1, 0, 4, 30), (2, 0, 1, 10), (2, 1, 3, 20)]
        assert logs(schema_url) == [(1, 4, None), (2, 3, "t")]


async def test_touchpoints_are_replaced_also_those_of_another_hand(store: SqlFactStore, schema_url: str) -> None:
    await write(store, journey(touches=(touch(1, 10), touch(2, 20))), journey(conversion(2, click_id=9)))
    await write(store, journey(touches=(touch(3, 15),), version=2))
    assert touchpoints(schema_url) == [(2, 0, 1, 1_700_000_000), (1, 0, 3, 15)]


async def test_a_conversion_that_counts_no_more_has_no_touchpoints_and_no_log(
    store: SqlFactStore, schema_url: str
) -> None:
    await write(store, journey(conversion(1)), journey(conversion(2, click_id=5)))
    await write(
        store,
        journey(conversion(1, deleted=1), outcome=Outcome.DELETED, touches=()),
        journey(conversion(2, click_id=5), outcome=Outcome.DUPLICATE, touches=()),
    )
    assert touchpoints(schema_url) == []
    assert logs(schema_url) == []
    assert query(schema_url, "SELECT conv_id, outcome, deleted FROM `202_stream_journeys` ORDER BY conv_id") == [
        (1, "deleted", 1),
        (2, "duplicate", 0),
    ]


async def test_a_change_of_winner_swaps_the_log_rows(store: SqlFactStore, schema_url: str) -> None:
    late, early = conversion(1, transaction_id="t", conv_time=200), conversion(2, transaction_id="t", conv_time=100)
    await write(store, journey(late))
    await write(store, journey(late, outcome=Outcome.DUPLICATE, touches=()), journey(early))
    assert logs(schema_url) == [(2, 1, "t")]
    await write(
        store, journey(early._replace(deleted=1), outcome=Outcome.DELETED, touches=()), journey(late, version=3)
    )
    assert logs(schema_url) == [(1, 1, "t")]


async def test_two_conversions_can_swap_their_transactions(store: SqlFactStore, schema_url: str) -> None:
    await write(store, journey(conversion(1, transaction_id="a")), journey(conversion(2, transaction_id="b")))
    await write(store, journey(conversion(1, transaction_id="b")), journey(conversion(2, transaction_id="a")))
    assert logs(schema_url) == [(1, 1, "b"), (2, 1, "a")]


async def test_the_log_row_of_a_conversion_elsewhere_gives_way(store: SqlFactStore, schema_url: str) -> None:
    await write(store, journey(conversion(1, user_id=9, transaction_id="t", conv_time=200)))
    await write(store, journey(conversion(2, transaction_id="t", conv_time=100)), displaced=(1,))
    assert logs(schema_url) == [(2, 1, "t")]


async def test_a_log_row_that_no_event_stands_behind_gives_way(store: SqlFactStore, schema_url: str) -> None:
    """Left by the installation's life before us; it must not stop a partition for ever."""
    await write(store, journey(conversion(9, transaction_id="t")))
    async with store.transaction() as transaction:
        await transaction._connection.run("DELETE FROM `202_stream_journeys` WHERE conv_id = 9")
    await write(store, journey(conversion(2, transaction_id="t")), journey(conversion(3, transaction_id="T")))
    assert logs(schema_url) == [(2, 1, "t"), (3, 1, "T")]


async def test_the_log_row_has_what_old_readers_look_for(store: SqlFactStore, schema_url: str) -> None:
    await write(store, journey(conversion(5, click_payout=Units(-1_250_001))))
    ((*row, payout),) = query(
        schema_url,
        "SELECT conv_id, click_id, transaction_id, campaign_id, user_id, click_time, conv_time, time_difference, ip,"
        " pixel_type, user_agent, deleted, click_payout FROM `202_conversion_logs`",
    )
    assert row == [5, 1, None, 70, 7, 1_700_000_000, 1_700_003_700, "3700", "", 0, "", 0]
    assert Decimal(str(payout)) == Decimal("-12.50001")


async def test_logs_are_left_alone_where_the_tracking_servers_write_them(
    store_of: StoreFactory, schema_url: str
) -> None:
    await write(store_of(writes_conversion_logs=False), journey(), displaced=(1,))
    assert logs(schema_url) == []
    assert len(touchpoints(schema_url)) == 1


async def test_hour_and_times_of_writing_stand_beside_the_journey(store: SqlFactStore, schema_url: str) -> None:
    await write(store, journey(conversion(1, conv_time=1_700_003_700)))
    assert query(schema_url, "SELECT date_hour, updated_at FROM `202_stream_journeys`") == [(1_700_002_800, NOW)]
    assert query(schema_url, "SELECT created_at FROM `202_conversion_touchpoints`") == [(NOW,)]


async def test_new_clicks_are_stored_and_known_ones_are_told(store: SqlFactStore) -> None:
    async with store.transaction() as transaction:
        assert await transaction.claim_clicks([click(3), click(1)]) == {}
    changed = click(1, click_cpc=Units(5), revised_at=9)
    async with store.transaction() as transaction:
        assert await transaction.claim_clicks([click(2), changed, click(3)]) == {1: click(1), 3: click(3)}
        await transaction.replace_clicks([changed])
    facts = await store.read(Needs(clicks=frozenset([1, 2, 3])))
    assert facts.clicks == {1: changed, 2: click(2), 3: click(3)}


async def test_a_chunk_of_clicks_that_are_all_known_changes_nothing(store: SqlFactStore) -> None:
    clicks = [click(number, visitor_id=f"v{number}") for number in range(1, 2501)]
    async with store.transaction() as transaction:
        assert await transaction.claim_clicks(clicks) == {}
    async with store.transaction() as transaction:
        assert await transaction.claim_clicks(clicks) == {each.click_id: each for each in clicks}
