"""Workers come and go politely: what one has begun it ends, and no other does it again."""

import time

from tests.faults.conftest import Install
from tests.faults.installation import Installation, metric
from tests.support.processes import wait_for
from tests.support.traffic import Rates, traffic

# Nothing that a worker would rightly count as known already.
NOTHING_TWICE = Rates(
    doubled=0, doubled_otherwise=0, campaign_later=0, deleted=0, same_transaction=0, broken=0, wrong_key=0
)


def test_sigterm_under_load_commits_all_chunks_and_nothing_is_delivered_again(
    install: Install, fresh_database: str
) -> None:
    installation = install(fresh_database, partitions=1, chunk_records=25)
    sent = traffic(3, 4000, now=installation.now, rates=NOTHING_TWICE)
    installation.send(sent[:2500])
    with installation.worker() as first:
        wait_for(lambda: installation.stored_clicks() > 200, "the worker to be busy", seconds=60)
        began = time.monotonic()
        with installation.sending(sent[2500:]):
            assert first.stop(seconds=10) == 0
        assert time.monotonic() - began < 10
    committed, ends = installation.committed(), installation.ends()
    rest = sum(ends.values()) - sum(committed.values())
    assert rest > 0, "the worker was done before it was told to stop"
    assert installation.stored_offsets() == committed, "a chunk was stored, and its offsets were not committed"
    with installation.worker() as second:
        installation.wait_drained()
        assert metric(second, "chunk_records_sum") == rest
        assert metric(second, "events_total", outcome="duplicate") == 0
        assert second.stop(seconds=10) == 0
    installation.assert_right()


def owners(installation: Installation) -> set[str]:
    return {owner for _, owner, _, _ in installation.progress()}


def test_one_worker_then_two_then_one_leave_the_same_rows(install: Install, fresh_database: str) -> None:
    installation = install(fresh_database, partitions=4, chunk_records=25)
    sent = traffic(4, 4500, now=installation.now)
    with installation.worker(name="first") as first:
        first.wait_ready()
        with installation.worker(name="second") as second:
            with installation.sending(sent[:2500]):
                wait_for(lambda: len(owners(installation)) == 2, "both to own partitions", seconds=60)
            with installation.sending(sent[2500:]):
                assert first.stop(seconds=10) == 0
            wait_for(lambda: len(owners(installation)) == 1, "the second one to own all", seconds=60)
            installation.wait_drained()
            assert second.stop(seconds=10) == 0
    installation.assert_right()
