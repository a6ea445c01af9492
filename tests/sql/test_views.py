"""The views for BI programs: what they show, how they are asked, and the queries of docs/bi.md."""

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pymysql
import pytest
from sqlalchemy import make_url

from stream.agents.firing import HoursAtWork, Order, fire
from stream.core.hours import CreditedAs, CreditRow, HourKey
from stream.core.money import Units
from stream.core.results import HourChange, HourRow, SnapshotRow
from stream.core.totals import Scope, ScopeKey
from tables.sql.database import Database
from tables.sql.facts import SqlFactStore
from tables.sql.hour_store import SqlHourStore
from tests.support.model_rows import fetch, run, store_model
from tests.support.rows import query
from tests.support.sql_examples import click, conversion, journey, touch

HOUR = 1_790_035_200
KEY = HourKey(1, HOUR)
CREDITED_AS = CreditedAs(1, Units(10_000_000), Units(800_000), HOUR + 7)
PAGE = (Path(__file__).parents[2] / "docs" / "bi.md").read_text("utf-8")
RECIPE = re.findall(r"```\n(CREATE USER.*?)```", PAGE, re.DOTALL)
QUERIES = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
LAST, LINEAR = 1, 2
FREE = 10_000_000  # snapshot ids that no other test has come to


def snapshot(model_id: int, scope: Scope, scope_id: int, *, revenue: int, cost: int) -> SnapshotRow:
    return SnapshotRow(ScopeKey(model_id, scope, scope_id), 1, 1, revenue, cost)


@pytest.fixture
async def filled(database: Database, store: SqlFactStore, hour_store: SqlHourStore) -> Database:
    """One conversion of 100.00, cost 8.00, with two touches; the first click has another source and landing page."""
    await store_model(database, LAST, user_id=1, model_slug="last-touch", model_type="last_touch")
    await store_model(database, LINEAR, user_id=1, model_slug="linear")
    of = conversion(5, user_id=1, click_id=2, click_time=HOUR - 10, conv_time=HOUR + 7, click_payout=Units(10_000_000))
    async with store.transaction() as transaction:
        await transaction.claim_clicks(
            [
                click(1, user_id=1, click_time=HOUR - 90, ppc_network_id=20, landing_page_id=30),
                click(2, user_id=1, click_time=HOUR - 10, ppc_network_id=21, landing_page_id=31),
            ]
        )
        touches = (touch(1, HOUR - 90), touch(2, HOUR - 10))
        await transaction.write_journeys([journey(of, click_cpc=Units(800_000), touches=touches)])
    rows = [
        snapshot(LAST, Scope.GLOBAL, 0, revenue=1_000_000, cost=80_000),
        snapshot(LINEAR, Scope.GLOBAL, 0, revenue=1_000_000, cost=80_000),
        snapshot(LAST, Scope.TRAFFIC_SOURCE, 21, revenue=1_000_000, cost=80_000),
        snapshot(LINEAR, Scope.TRAFFIC_SOURCE, 20, revenue=500_000, cost=40_000),
        snapshot(LINEAR, Scope.TRAFFIC_SOURCE, 21, revenue=500_000, cost=40_000),
    ]
    credits = [
        CreditRow(LAST, 5, 2, 0, 100_000),
        CreditRow(LINEAR, 5, 1, 0, 50_000),
        CreditRow(LINEAR, 5, 2, 1, 50_000),
    ]
    row = HourRow(1, 0, 9, is_final=True, problems={})
    async with hour_store.transaction() as hours:
        await hours.lock_accounts([1])
        await hours.write([HourChange(KEY, row, rows, (), (), credits, {5: CREDITED_AS}, ())])
    return database


def plain(rows: Sequence[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """SQLite gives numbers where MariaDB gives decimals, and a text for a time."""
    return [
        tuple(float(value) if isinstance(value, Decimal) else str(value) if _is_time(value) else value for value in row)
        for row in rows
    ]


def _is_time(value: object) -> bool:
    return hasattr(value, "isoformat")


async def test_the_queries_of_the_page_answer(filled: Database) -> None:
    hourly, sources, pages = [plain(await fetch(filled, query)) for query in QUERIES]
    assert hourly == [("2026-09-22 00:00:00", 1, 100, 8, 92, 1150, 1)]
    assert sources == [(20, 0, 50), (21, 100, 50)]
    assert pages == [(30, 1, 50)]


async def test_a_credit_shows_its_click_and_its_share_of_the_money(filled: Database) -> None:
    columns = (
        "position, click_id, click_time, conv_time, hour_utc, credit, weight, campaign_id, ppc_network_id, click_cpc,"
        " click_payout, attributed_revenue, attributed_cost"
    )
    rows = await fetch(
        filled,
        f"SELECT {columns} FROM `202_bi_attribution_credits` WHERE model_slug = 'linear' ORDER BY position",
    )
    begin = "2026-09-22 00:00:00"
    assert plain(rows) == [
        (0, 1, HOUR - 90, HOUR + 7, begin, 0.5, 0.5, 70, 20, 0.12345, 100, 50, 4),
        (1, 2, HOUR - 10, HOUR + 7, begin, 0.5, 0.5, 70, 21, 0.12345, 100, 50, 4),
    ]


async def test_a_journey_that_changed_shows_in_its_credits_with_its_hour_and_not_before(
    filled: Database, store: SqlFactStore, hour_store: SqlHourStore
) -> None:
    shown = (
        "SELECT conv_time, click_payout, attributed_revenue, attributed_cost FROM `202_bi_attribution_credits`"
        " WHERE model_slug = 'last-touch'"
    )
    of = conversion(5, user_id=1, click_id=2, click_time=HOUR - 10, conv_time=HOUR + 9, click_payout=Units(5_000_000))
    touches = (touch(1, HOUR - 90), touch(2, HOUR - 10))
    async with store.transaction() as transaction:
        await transaction.write_journeys([journey(of, version=2, click_cpc=Units(100_000), touches=touches)])
    assert plain(await fetch(filled, shown)) == [(HOUR + 7, 100, 100, 8)]
    async with hour_store.transaction() as hours:
        await fire(hours, HoursAtWork(0), Order(marks=[(1, 5)]), with_extra_scopes=True)
    assert plain(await fetch(filled, shown)) == [(HOUR + 9, 50, 50, 1)]
    await run(filled, "UPDATE `202_stream_credited` SET payout = NULL, cost = NULL, conv_time = NULL, version = 1")
    assert plain(await fetch(filled, shown)) == [(HOUR + 9, 50, 50, 1)]  # of an earlier release: its journey speaks


async def test_rows_of_another_system_are_shown_without_what_is_not_known(filled: Database) -> None:
    await run(
        filled,
        "INSERT INTO `202_attribution_snapshots` (snapshot_id, model_id, user_id, scope_type, scope_id, date_hour,"
        " lookback_start, lookback_end, attributed_clicks, attributed_conversions, attributed_revenue,"
        f" attributed_cost, created_at) VALUES ({FREE}, 99, 8, 'global', NULL, 7200, 0, 0, 1, 1, 5, -1, 0)",
        "INSERT INTO `202_attribution_touchpoints` (snapshot_id, conv_id, click_id, position, credit, weight,"
        f" created_at) VALUES ({FREE}, 77, 78, 0, 1, 1, 0)",
    )
    hourly = await fetch(
        filled,
        "SELECT model_slug, attributed_revenue, roi, is_final, revision FROM `202_bi_attribution_hourly`"
        " WHERE model_id = 99",
    )
    assert plain(hourly) == [(None, 5, None, 0, 0)]
    credits = await fetch(
        filled,
        "SELECT conv_id, click_time, campaign_id, attributed_revenue FROM `202_bi_attribution_credits`"
        " WHERE model_id = 99",
    )
    assert credits == [(77, None, None, None)]


async def test_a_converting_click_that_was_never_seen_has_what_its_conversion_says(filled: Database) -> None:
    await run(filled, "DELETE FROM `202_stream_clicks`")
    rows = await fetch(
        filled,
        "SELECT click_id, click_time, campaign_id, ppc_network_id FROM `202_bi_attribution_credits`"
        " WHERE model_slug = 'linear' ORDER BY position",
    )
    assert rows == [(1, None, 70, None), (2, HOUR - 10, 70, None)]


async def test_the_hour_is_in_utc_whatever_the_time_zone_of_the_session(mariadb: Database) -> None:
    async with mariadb.transaction() as connection:
        await connection.run(
            "INSERT INTO `202_attribution_snapshots` (model_id, user_id, scope_type, date_hour, lookback_start,"
            f" lookback_end, created_at) VALUES (1, 1, 'global', {HOUR}, 0, 0, 0)"
        )
    async with mariadb.reading() as connection:
        for zone in ("+00:00", "-11:00", "+13:00"):
            await connection.run("SET SESSION time_zone = ?", [zone])
            rows = await connection.fetch("SELECT hour_utc FROM `202_bi_attribution_hourly`")
            assert plain(list(rows)) == [("2026-09-22 00:00:00",)]
        await connection.run("SET SESSION time_zone = @@GLOBAL.time_zone")
        kinds = await connection.fetch(
            "SELECT DISTINCT data_type FROM information_schema.columns WHERE table_schema = DATABASE()"
            " AND table_name LIKE '202_bi_%' AND column_name = 'hour_utc'"
        )
    assert list(kinds) == [("datetime",)]


def test_the_user_of_the_page_reads_the_views_and_nothing_else(schema_mariadb: str) -> None:
    (socket,), name = query(schema_mariadb, "SELECT @@socket")[0], make_url(schema_mariadb).database
    (recipe,) = RECIPE
    statements = [each.replace("touchstream.", f"`{name}`.") for each in recipe.split(";") if each.strip()]
    with closing(pymysql.connect(unix_socket=socket, user="root")) as administrator, administrator.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        try:
            url = make_url(schema_mariadb).set(username="bi", password="choose-a-password")
            reader = url.render_as_string(hide_password=False)
            for view in ("202_bi_attribution_hourly", "202_bi_attribution_credits"):
                assert query(reader, f"SELECT * FROM `{view}`") == []
            for refused in ("SELECT * FROM `202_stream_journeys`", "DELETE FROM `202_bi_attribution_hourly`"):
                with pytest.raises(pymysql.err.OperationalError, match="denied"):
                    query(reader, refused)
        finally:
            cursor.execute("DROP USER 'bi'@'%'")


@pytest.mark.parametrize("view", ["202_bi_attribution_hourly", "202_bi_attribution_credits"])
@pytest.mark.parametrize("account", ["model_id = 1", "user_id = 1"])
async def test_no_query_by_hour_and_model_or_user_reads_whole_tables(view: str, account: str, filled: Database) -> None:
    await run(filled, *_other_rows())
    if filled.dialect == "mysql":
        await fetch(filled, "ANALYZE TABLE `202_attribution_snapshots`, `202_attribution_touchpoints`")
    explain = "EXPLAIN" if filled.dialect == "mysql" else "EXPLAIN QUERY PLAN"
    statement = f"SELECT * FROM `{view}` WHERE {account} AND date_hour BETWEEN {HOUR} AND {HOUR + 3600}"
    steps = await fetch(filled, f"{explain} {statement}")
    if filled.dialect == "mysql":
        # The others have a handful of rows, or those of other tests, and reading all of them may be cheapest.
        large = [step for step in steps if step[2] in {"s", "c"}]
        assert large
        assert all(step[3] != "ALL" for step in large), steps
    else:
        assert all(str(step[3]).startswith("SEARCH ") for step in steps), steps


def _other_rows() -> Iterator[str]:
    """So many that reading all of them is no longer the cheapest; in place of what other tests left under these ids."""
    snapshots = ",".join(
        f"({FREE + n}, {n % 5 + 1}, {n % 5 + 1}, 'campaign', {n * 3600}, 0, 0, 0)" for n in range(1000)
    )
    yield (
        "REPLACE INTO `202_attribution_snapshots` (snapshot_id, model_id, user_id, scope_type, date_hour,"
        f" lookback_start, lookback_end, created_at) VALUES {snapshots}"
    )
    credits = ",".join(f"({FREE + n % 1000}, {n}, {n}, 0, 1, 1, 0)" for n in range(5000))
    yield (
        "REPLACE INTO `202_attribution_touchpoints` (snapshot_id, conv_id, click_id, position, credit, weight,"
        f" created_at) VALUES {credits}"
    )
