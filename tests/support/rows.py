"""What does stand in SQL? Read by plain drivers, so that no mistake of the product's own SQL code is repeated here."""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from decimal import Decimal
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

import pymysql

from tests.support.oracle import ConversionLog, ExpectedRows, JourneyRow, Touchpoint
from tests.support.oracle_events import Click

FIRST_DIFFERENCES = 10

# Backticks: SQLite needs names quoted that begin with a digit, and knows MariaDB's quotes too.
_TOUCHPOINTS = "SELECT conv_id, position, click_id, click_time FROM `202_conversion_touchpoints`"
_CONVERSION_LOGS = (
    "SELECT conv_id, click_id, transaction_id, campaign_id, click_payout, user_id, conv_time FROM `202_conversion_logs`"
)
_CLICKS = f"SELECT {', '.join(Click._fields)} FROM `202_stream_clicks`"
_JOURNEYS = "SELECT conv_id, outcome, click_unknown FROM `202_stream_journeys`"

_Row = TypeVar("_Row", bound=tuple[Any, ...])


class StoredRows(NamedTuple):
    """Sorted; a row that stands twice is twice in here."""

    touchpoints: Sequence[Touchpoint]
    conversion_logs: Sequence[ConversionLog]
    journeys: Sequence[JourneyRow]


def read_touchpoints(database_url: str) -> list[Touchpoint]:
    return sorted(Touchpoint(*row) for row in query(database_url, _TOUCHPOINTS))


def read_conversion_logs(database_url: str) -> list[ConversionLog]:
    found = []
    for row in query(database_url, _CONVERSION_LOGS):
        log = ConversionLog(*row)
        # SQLite gives a number or text where MariaDB gives a Decimal; equal amounts compare equal.
        found.append(log._replace(click_payout=Decimal(str(log.click_payout))))
    return sorted(found, key=lambda log: log.conv_id)


def read_journeys(database_url: str) -> list[JourneyRow]:
    return sorted(
        JourneyRow(conv_id, outcome, bool(click_unknown))
        for conv_id, outcome, click_unknown in query(database_url, _JOURNEYS)
    )


def read_clicks(database_url: str) -> list[Click]:
    """In all columns."""
    clicks = (Click(*row) for row in query(database_url, _CLICKS))
    return sorted(click._replace(click_cpc=Decimal(str(click.click_cpc))) for click in clicks)


def read_all(database_url: str) -> StoredRows:
    return StoredRows(read_touchpoints(database_url), read_conversion_logs(database_url), read_journeys(database_url))


def query(database_url: str, statement: str) -> list[tuple[Any, ...]]:
    """The rows of one SELECT, from the database that a TOUCHSTREAM_DATABASE_URL names."""
    with _cursor(database_url) as cursor:
        cursor.execute(statement)
        return list(cursor.fetchall())


def difference(wanted: Iterable[_Row], found: Iterable[_Row], *, what: str = "rows") -> str:
    """'' if both hold the same rows, doubles counted; else a text with the first differences in row order."""
    missing, surplus = _minus(wanted, found), _minus(found, wanted)
    if not missing and not surplus:
        return ""
    lines = [f"{what}: {len(missing)} missing, {len(surplus)} too many"]
    marked = sorted([(_sort_key(row), f"- {row}") for row in missing])
    marked = sorted(marked + [(_sort_key(row), f"+ {row}") for row in surplus])
    lines += [text for _, text in marked[:FIRST_DIFFERENCES]]
    if len(marked) > FIRST_DIFFERENCES:
        lines.append(f"  and {len(marked) - FIRST_DIFFERENCES} more")
    return "\n".join(lines)


def differences(wanted: ExpectedRows, database_url: str) -> str:
    """'' if the database holds exactly what the oracle expects: touchpoints, conversion logs and journeys."""
    found = read_all(database_url)
    texts = [
        difference(wanted.touchpoints, found.touchpoints, what="touchpoints"),
        difference(wanted.conversion_logs, found.conversion_logs, what="conversion logs"),
        difference(wanted.journeys, found.journeys, what="journeys"),
    ]
    return "\n".join(text for text in texts if text)


def _sort_key(row: tuple[Any, ...]) -> tuple[tuple[bool, Any], ...]:
    """A sort key for rows in which a value may be absent."""
    return tuple((value is not None, value if value is not None else 0) for value in row)


def _minus(left: Iterable[_Row], right: Iterable[_Row]) -> list[_Row]:
    rest = Counter(left)
    rest.subtract(Counter(right))
    return list(rest.elements())


@contextmanager
def _cursor(database_url: str) -> Iterator[Any]:
    parts = urlsplit(database_url)
    if parts.scheme.startswith("sqlite"):
        # Read only: a test that looks must not create the file it looks for.
        with closing(sqlite3.connect(f"file:{unquote(parts.path[1:])}?mode=ro", uri=True)) as connection:
            yield connection.cursor()
        return
    options = {name: values[0] for name, values in parse_qs(parts.query).items()}
    server = pymysql.connect(
        host=parts.hostname or "127.0.0.1",
        port=parts.port or 3306,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        database=parts.path[1:],
        unix_socket=options.get("unix_socket"),
        charset="utf8mb4",
    )
    with closing(server), closing(server.cursor()) as cursor:
        yield cursor
