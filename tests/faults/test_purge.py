"""Purges beside a worker at work, on real servers: nothing is lost, hours follow, and a later event restores."""

import asyncio
from collections.abc import Iterable

from tests.faults.conftest import Install
from tests.faults.events import click, conversion
from tests.faults.installation import Installation
from tests.support.hour_books import disagreement
from tests.support.hour_oracle import Earning, Model, earnings_of, expected_hours
from tests.support.hour_rows import read_books, read_hours, read_revisions, store_models
from tests.support.processes import succeed, wait_for
from tests.support.rows import difference, query, read_conversion_logs, read_journeys, read_touchpoints
from tests.support.traffic import Rates, traffic

ALL = ("--start", "0", "--end", "4294967295")
RATES = Rates(conversions=0.3, late=0.3, revised_conversions=0.2)
MODELS = [
    Model(user_id, user_id * 100 + number, kind, config)
    for user_id in range(1, 4)
    for number, (kind, config) in enumerate(
        (("last_touch", {}), ("linear", {}), ("time_decay", {"half_life_hours": 48}))
    )
]
OURS = 900_001  # a conversion made by hand


def drain(installation: Installation) -> None:
    succeed("status", "--wait-drained", "90", env=installation.env)


def purged(installation: Installation) -> set[int]:
    return {
        row[0] for row in query(installation.database_url, "SELECT conv_id FROM `202_stream_journeys` WHERE purged = 1")
    }


def alone(earning: Earning) -> Earning:
    """With its converting click alone."""
    return earning._replace(touches=tuple(each for each in earning.touches if each.click_id == earning.click_id))


def agree(*differences: str) -> None:
    assert "".join(differences) == ""


def check(installation: Installation, gone: Iterable[int]) -> None:
    """All is as if nobody had purged, but those conversions have no touchpoints, and earn by their own click."""
    gone = set(gone)
    wanted = installation.expected()
    url = installation.database_url
    touchpoints = [row for row in wanted.touchpoints if row.conv_id not in gone]
    agree(
        difference(touchpoints, read_touchpoints(url), what="touchpoints"),
        difference(wanted.conversion_logs, read_conversion_logs(url), what="conversion logs"),
        difference(wanted.journeys, read_journeys(url), what="journeys"),
    )
    earnings = [alone(each) if each.conv_id in gone else each for each in earnings_of(wanted)]
    hours = expected_hours(earnings, MODELS)
    found = read_hours(url)
    agree(disagreement(hours, found), disagreement(found, asyncio.run(read_books(installation.env)).read()))
    read_revisions(url)


def test_hours_follow_a_purge_and_a_later_event_restores_the_journey(
    install: Install, fresh_database: str, memcached: str
) -> None:
    installation = install(fresh_database, chunk_records=40, fire_interval_seconds=0.3, memcached=memcached)
    store_models(installation.database_url, MODELS)
    records = traffic(11, 4500, now=installation.now, rates=RATES, users=3)
    at = installation.now - 5000
    with installation.worker() as worker:
        with installation.sending(records[:4000]):
            wait_for(lambda: len(read_journeys(installation.database_url)) > 20, "the first journeys")
            for _ in range(2):
                succeed("purge", *ALL, env=installation.env)
        installation.send(records[4000:])
        drain(installation)
        assert 0 < len(purged(installation)) < len(installation.expected().conversion_logs)
        check(installation, purged(installation))

        installation.send([click(1, at - 20), click(2, at - 10), conversion(OURS, 1, at)])
        drain(installation)
        succeed("purge", *ALL, env=installation.env)
        drain(installation)
        counted = {row.conv_id for row in installation.expected().conversion_logs}
        assert purged(installation) == counted
        assert read_touchpoints(installation.database_url) == []
        check(installation, counted)

        installation.send([conversion(OURS, 1, at, click_payout=11, revised_at=installation.now)])
        drain(installation)
        assert purged(installation) == counted - {OURS}
        assert [row.click_id for row in read_touchpoints(installation.database_url)][-2:] == [1, 2]
        check(installation, counted - {OURS})
        assert worker.stop() == 0
