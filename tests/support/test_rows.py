"""Rows are read back as they stand, and differences are told apart."""

import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest

from tests.support import rows
from tests.support.oracle import ConversionLog, JourneyRow, Touchpoint, expected
from tests.support.servers import run_sql

_SCHEMA = (
    "CREATE TABLE `202_conversion_touchpoints` (conv_id BIGINT, click_id BIGINT, click_time BIGINT, position BIGINT)",
    "CREATE TABLE `202_conversion_logs` (conv_id BIGINT, click_id BIGINT, transaction_id VARCHAR(255), "
    "campaign_id BIGINT, click_payout DECIMAL(11,5), user_id BIGINT, conv_time BIGINT)",
    "CREATE TABLE `202_stream_journeys` (conv_id BIGINT, outcome VARCHAR(20), click_unknown SMALLINT)",
    "INSERT INTO `202_conversion_touchpoints` VALUES (2, 8, 200, 1), (2, 7, 100, 0)",
    "INSERT INTO `202_conversion_logs` VALUES (2, 8, NULL, 11, 33.33333, 1, 300)",
    "INSERT INTO `202_stream_journeys` VALUES (3, 'deleted', 0), (2, 'counted', 1)",
)
_STORED = rows.StoredRows(
    touchpoints=[Touchpoint(2, 0, 7, 100), Touchpoint(2, 1, 8, 200)],
    conversion_logs=[ConversionLog(2, 8, None, 11, Decimal("33.33333"), 1, 300)],
    journeys=[JourneyRow(2, "counted", click_unknown=True), JourneyRow(3, "deleted", click_unknown=False)],
)


def test_rows_of_an_sqlite_file_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.db"
    with closing(sqlite3.connect(path)) as connection:
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.commit()
    assert rows.read_all(f"sqlite+aiosqlite:///{path}") == _STORED


def test_rows_of_a_mariadb_database_are_read(fresh_mariadb: str) -> None:
    name = fresh_mariadb.rpartition("/")[2].partition("?")[0]
    run_sql(fresh_mariadb, "; ".join(["USE " + name, *_SCHEMA]))
    assert rows.read_all(fresh_mariadb) == _STORED


def test_reading_does_not_create_a_database(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError):
        rows.read_touchpoints(f"sqlite+aiosqlite:///{tmp_path / 'absent.db'}")
    assert list(tmp_path.iterdir()) == []


def test_equal_rows_in_any_order_do_not_differ() -> None:
    assert rows.difference(_STORED.touchpoints, list(reversed(_STORED.touchpoints))) == ""


def test_a_row_that_stands_twice_differs_from_one_that_stands_once() -> None:
    text = rows.difference(_STORED.touchpoints, [*_STORED.touchpoints, _STORED.touchpoints[0]])
    assert text.splitlines() == ["rows: 0 missing, 1 too many", f"+ {_STORED.touchpoints[0]}"]


def test_a_difference_shows_the_first_ten_rows_and_counts_the_rest() -> None:
    wanted = [Touchpoint(conv_id, 0, 1, 1) for conv_id in range(1, 31)]
    lines = rows.difference(wanted, wanted[:15], what="touchpoints").splitlines()
    assert lines[0] == "touchpoints: 15 missing, 0 too many"
    assert lines[1] == f"- {wanted[15]}"
    assert lines[-1] == "  and 5 more"


def test_rows_with_absent_values_can_be_compared() -> None:
    log = _STORED.conversion_logs[0]
    assert rows.difference([log], [log._replace(transaction_id="t")]).count("\n") == 2


def test_what_the_oracle_expects_is_compared_with_all_that_is_stored(tmp_path: Path) -> None:
    path = tmp_path / "empty.db"
    with closing(sqlite3.connect(path)) as connection:
        for name in ("202_conversion_touchpoints", "202_conversion_logs", "202_stream_journeys"):
            columns = next(text for text in _SCHEMA if name in text).partition("(")[2]
            connection.execute(f"CREATE TABLE `{name}` ({columns}")
    conversion = b'{"conv_id":1,"click_id":2,"user_id":3,"campaign_id":4,"click_time":5,"conv_time":6,"click_payout":7}'
    text = rows.differences(expected([("conversions", conversion, 10)]), f"sqlite+aiosqlite:///{path}")
    assert [line for line in text.splitlines() if line.endswith("too many")] == [
        "touchpoints: 1 missing, 0 too many",
        "conversion logs: 1 missing, 0 too many",
        "journeys: 1 missing, 0 too many",
    ]
