"""kill -9 at any moment: what the next worker makes of it is what one that was never killed would have made."""

import random

import pytest

from tests.faults.conftest import Install
from tests.faults.installation import Installation
from tests.support.processes import succeed, wait_for
from tests.support.traffic import Rates, traffic

# Much of what makes a chunk change more than its own rows.
RATES = Rates(conversions=0.3, late=0.3, revised_clicks=0.25, other_campaign=0.25, revised_conversions=0.2, broken=0.01)


def kill_at(installation: Installation, clicks: int) -> None:
    """Let a worker run until so many clicks are stored; then it is gone, wherever it was."""
    with installation.worker() as worker:
        wait_for(
            lambda: installation.stored_clicks() >= clicks or not worker.is_running(), f"{clicks} clicks", seconds=60
        )
        assert worker.is_running(), worker.log_tail()
        worker.kill()
    installation.expel_members()


def kill_and_compare(installation: Installation, kills: int, events: int) -> None:
    # pytest-randomly seeds this, and says with what: that `--randomly-seed` gives the same moments again.
    sent = traffic(random.randrange(2**32), events, now=installation.now, rates=RATES)
    clicks = len({record.value for record in sent if record.topic == "clicks"})
    installation.send(sent)
    for moment in sorted(random.sample(range(clicks // 20, clicks * 6 // 10), kills)):
        kill_at(installation, moment)
    with installation.worker() as worker:
        succeed("status", "--wait-drained", "60", env=installation.env)
        assert worker.stop() == 0
    installation.assert_right()


def test_rows_are_right_after_kills_at_random_moments(install: Install, fresh_database: str) -> None:
    kill_and_compare(install(fresh_database, partitions=3, chunk_records=20), kills=3, events=3000)


@pytest.mark.full
def test_rows_are_right_after_twenty_kills_at_random_moments(install: Install, fresh_database: str) -> None:
    kill_and_compare(install(fresh_database, partitions=3, chunk_records=20), kills=20, events=12_000)
