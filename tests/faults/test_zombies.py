"""A worker that was stopped for longer than its session lasts wakes up: others have gone on with its partitions."""

import signal
from pathlib import Path

import pytest

from tests.faults.conftest import Install
from tests.faults.events import click, conversion
from tests.faults.installation import Installation, metric
from tests.support.processes import Worker, wait_for
from tests.support.rows import query
from tests.support.traffic import DAY, traffic

_WRITTEN_ROWS = (
    "SELECT conv_id, version, updated_at FROM `202_stream_journeys`",
    "SELECT COUNT(*), SUM(revised_at), SUM(click_time) FROM `202_stream_clicks`",
    "SELECT touchpoint_id, conv_id, position, click_id, created_at FROM `202_conversion_touchpoints`",
)


def wait_stopped(worker: Worker) -> None:
    """Until the process has stopped itself."""

    def is_stopped() -> bool:
        assert worker.is_running(), worker.log_tail()
        return Path(f"/proc/{worker.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    wait_for(is_stopped, "the worker to stop itself", seconds=60)


def written(installation: Installation) -> list[list[tuple[object, ...]]]:
    return [sorted(query(installation.database_url, statement)) for statement in _WRITTEN_ROWS]


def changelog_values(installation: Installation) -> int:
    """The records that begin an epoch left out."""
    return sum(not record.key.startswith(b"\0") for record in installation.read_changelog())


def has_left(worker: Worker) -> bool:
    """Ended, or noticed that it is no member any more, which drops its state and begins anew."""
    return not worker.is_running() or "Heartbeat failed" in worker.log_text()


def test_stale_changelog_values_of_a_zombie_are_dropped_by_the_next_recovery(
    install: Install, fresh_database: str
) -> None:
    installation = install(fresh_database, partitions=1)
    start = installation.now - 10 * DAY
    installation.send([click(number, start + number, visitor_id="ann") for number in range(1, 4)])
    installation.send([conversion(1, 3, start + 50)])
    with installation.worker() as first:
        installation.wait_drained()
        assert first.stop() == 0
    with installation.worker(name="zombie", pause_at="sql:1") as zombie:
        # The second one is late and enters the first journey.
        installation.send([click(4, start + 4, visitor_id="ann"), click(5, start + 2, visitor_id="ann")])
        wait_stopped(zombie)
        with installation.worker(name="heir") as heir:
            installation.wait_drained()
            # What the zombie knows nothing of: a click more, one that went to another visitor, one moved in time.
            later = [
                click(6, start + 60, visitor_id="ann"),
                click(2, start + 2, visitor_id="bob", revised_at=start + 100),
                click(3, start + 40, visitor_id="ann", revised_at=start + 100),
            ]
            installation.send([*later, conversion(2, 6, start + 70)])
            installation.wait_drained()
            # One chunk more: a key that was revised in the very last one is forgotten anyway, and would prove nothing.
            installation.send([click(50, start)])
            installation.wait_drained()
            rows, progress = written(installation), installation.progress()
            values = changelog_values(installation)
            zombie.signal(signal.SIGCONT)
            wait_for(lambda: changelog_values(installation) > values, "the zombie's stale values")
            zombie.kill()
            assert written(installation) == rows
            assert installation.progress()[0][2] >= progress[0][2]
            heir.kill()
    installation.expel_members()
    with installation.worker(name="after") as after:
        after.wait_ready()
        assert metric(after, "state_stale_dropped") > 0
        installation.send([conversion(number, 6, start + 80 + number) for number in range(3, 6)])
        installation.wait_drained()
        assert after.stop() == 0
    installation.assert_right()


def stop_under_load(installation: Installation, place: str) -> None:
    sent = traffic(11, 1500, now=installation.now)
    installation.send(sent[:1000])
    with installation.worker(name="zombie", pause_at=place) as zombie:
        wait_stopped(zombie)
        with installation.worker(name="heir") as heir:
            installation.wait_drained()
            rows, progress = written(installation), installation.progress()
            zombie.signal(signal.SIGCONT)
            wait_for(lambda: has_left(zombie), "the zombie to notice", seconds=30)
            assert written(installation) == rows
            if not zombie.is_running():
                assert zombie.wait_exit() == 1
                assert installation.progress() == progress
            installation.send(sent[1000:])
            installation.wait_drained()
            assert heir.stop() == 0
    installation.expel_members()
    installation.assert_right()


def test_a_zombie_with_more_to_do_writes_nothing_to_sql(install: Install, fresh_mariadb: str) -> None:
    stop_under_load(install(fresh_mariadb, partitions=1, chunk_records=20), "offsets:3")


@pytest.mark.full
@pytest.mark.parametrize("step", ["sql", "cache", "outputs", "changelog", "offsets"])
def test_a_zombie_that_stopped_behind_any_step_writes_nothing_to_sql(
    install: Install, fresh_database: str, step: str
) -> None:
    stop_under_load(install(fresh_database, partitions=1, chunk_records=20), f"{step}:5")
