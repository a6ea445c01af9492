"""Hours through kills, exits and late facts on real servers: rows as the oracle says, topics as the rows."""

import asyncio

from stream.engine.barrier import STEPS
from tests.faults.conftest import Install
from tests.faults.events import USER, click, conversion
from tests.faults.installation import Installation
from tests.support.hour_books import disagreement
from tests.support.hour_oracle import Model, earnings_of, expected_hours
from tests.support.hour_rows import polled, read_books, read_hours, read_revisions, store_models
from tests.support.processes import succeed, wait_for
from tests.support.rows import query
from tests.support.traffic import Rates, traffic

EXIT_CODE = 137
RATES = Rates(conversions=0.3, late=0.3, revised_clicks=0.25, other_campaign=0.25, revised_conversions=0.2)
HOUR = 3600
MODELS = [
    Model(user_id, user_id * 100 + number, kind, config)
    for user_id in range(1, 6)
    for number, (kind, config) in enumerate(
        (("last_touch", {}), ("linear", {}), ("time_decay", {"half_life_hours": 48}), ("assisted", {}))
    )
]


def check(installation: Installation) -> None:
    found = read_hours(installation.database_url)
    wanted = expected_hours(earnings_of(installation.expected()), MODELS)
    assert disagreement(wanted, found) == ""
    assert disagreement(found, asyncio.run(read_books(installation.env)).read(), what="topics") == ""
    read_revisions(installation.database_url)


def drain(installation: Installation) -> None:
    succeed("status", "--wait-drained", "90", env=installation.env)


def test_hours_are_right_after_kills_and_exits_behind_each_step_of_their_engine(
    install: Install, fresh_database: str
) -> None:
    installation = install(fresh_database, partitions=3, chunk_records=40, fire_interval_seconds=0.3)
    store_models(installation.database_url, MODELS)
    records = traffic(5, 1500, now=installation.now, rates=RATES, users=5)
    with polled(installation.database_url), installation.sending(records):
        for step in STEPS:
            with installation.worker(name=f"hours-{step}", hours_exit_at=f"{step}:2") as worker:
                assert worker.wait_exit() == EXIT_CODE
            installation.expel_members()
        with installation.worker() as worker:
            wait_for(lambda: bool(read_hours(installation.database_url).credits), "the first credits")
            worker.kill()
        installation.expel_members()
    with polled(installation.database_url), installation.worker() as worker:
        drain(installation)
        assert worker.stop() == 0
    check(installation)


def test_exactly_the_affected_hours_get_a_revision(install: Install, fresh_database: str) -> None:
    installation = install(fresh_database, partitions=1, fire_interval_seconds=0.3)
    store_models(installation.database_url, MODELS)
    start = (installation.now // HOUR - 100) * HOUR
    first, second, third = ((USER, start + number * HOUR) for number in range(3))
    installation.send([click(number, start - HOUR + number) for number in range(1, 4)])
    installation.send([conversion(number, number, start + (number - 1) * HOUR + 7) for number in range(1, 4)])
    with installation.worker() as worker:
        drain(installation)
        before = read_revisions(installation.database_url)
        for records, affected in (
            ([conversion(1, 1, start + 7, deleted=1, revised_at=1)], {first}),
            ([conversion(2, 2, start + HOUR + 7, click_payout=11, revised_at=1)], {second}),
            ([conversion(2, 2, start + 8, click_payout=11, revised_at=2)], {first, second}),
            ([conversion(2, 2, start + HOUR + 7, click_payout=11, revised_at=3)], {first, second}),
            ([click(9, start + 2 * HOUR + 3)], {third}),
        ):
            installation.send(records)
            drain(installation)
            after = read_revisions(installation.database_url)
            assert {key for key, revision in after.items() if revision != before.get(key)} == affected
            before = after
        assert worker.stop() == 0
    check(installation)


def test_a_change_of_models_or_settings_reaches_a_running_worker_within_its_interval(
    install: Install, fresh_sqlite: str
) -> None:
    """The product's own ticks and rounds: 5 seconds by design, and three times that on a machine that others use."""
    hours, seconds, user = 60, 15, ("--user", str(USER))
    installation = install(fresh_sqlite, partitions=1, fire_interval_seconds=5, allowed_lateness_seconds=30 * 86_400)
    start = (installation.now // HOUR - 2 * hours) * HOUR
    installation.send([click(number, start + number * HOUR) for number in range(1, hours + 1)])
    installation.send([conversion(number, number, start + number * HOUR + 7) for number in range(1, hours + 1)])
    credits = (
        "SELECT COUNT(DISTINCT s.date_hour), COUNT(*) FROM `202_attribution_touchpoints` t"
        " JOIN `202_attribution_snapshots` s ON s.snapshot_id = t.snapshot_id"
        " JOIN `202_attribution_models` m ON m.model_id = s.model_id WHERE m.model_slug = 'new'"
    )

    def credited() -> tuple[int, int]:
        ((of_hours, rows),) = query(installation.database_url, credits)
        return of_hours, rows

    with installation.worker() as worker:
        drain(installation)
        succeed("models", "create", *user, "--name", "New", "--type", "linear", env=installation.env)
        wait_for(lambda: credited()[0] == hours, "rows of the new model in all open hours", seconds=seconds)
        assert credited()[1] > hours
        off = ("--scope", "global", "--multi-touch", "off", "--since", "1")
        succeed("settings", "set", *user, *off, env=installation.env)
        wait_for(lambda: credited() == (hours, hours), "the converting clicks alone in all open hours", seconds=seconds)
        assert worker.stop() == 0
