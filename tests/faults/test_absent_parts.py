"""Broker or database are not there, at the start or all at once: the worker waits, says so, and goes on."""

import json
import signal
from pathlib import Path

from tests.faults.installation import Installation
from tests.support.processes import Worker, wait_for
from tests.support.servers import RunningServer
from tests.support.traffic import traffic


def wait_until_it_says_so(worker: Worker) -> None:
    """/readyz names what is waited for."""

    def says_so() -> bool:
        assert worker.is_running(), worker.log_tail()
        status, page = worker.health("/readyz")
        return status == 503 and bool(json.loads(page)["waiting_for"])

    wait_for(says_so, "/readyz to say what is waited for", seconds=90)


def installed(kafka: str, database_url: str, folder: Path) -> Installation:
    installation = Installation(kafka, database_url, folder, partitions=2, chunk_records=25)
    installation.prepare()
    return installation


def finish(installation: Installation, worker: Worker) -> None:
    installation.wait_drained(seconds=120)
    worker.wait_ready()
    assert worker.stop() == 0
    installation.assert_right()


def test_a_broker_that_is_absent_at_the_start_is_waited_for(
    own_kafka: RunningServer, fresh_sqlite: str, tmp_path: Path
) -> None:
    installation = installed(own_kafka.address, fresh_sqlite, tmp_path)
    installation.send(traffic(31, 500, now=installation.now))
    own_kafka.stop()
    with installation.worker() as worker:
        wait_until_it_says_so(worker)
        own_kafka.start()
        worker.wait_ready(seconds=120)
        finish(installation, worker)


def test_a_broker_that_goes_away_in_flight_is_waited_for(
    own_kafka: RunningServer, fresh_sqlite: str, tmp_path: Path
) -> None:
    installation = installed(own_kafka.address, fresh_sqlite, tmp_path)
    sent = traffic(32, 4000, now=installation.now)
    installation.send(sent[:3500])
    with installation.worker() as worker:
        wait_for(lambda: installation.stored_clicks() > 300, "the worker to be busy", seconds=60)
        own_kafka.stop()
        wait_until_it_says_so(worker)
        own_kafka.start()
        installation.send(sent[3500:])
        finish(installation, worker)


def test_a_database_that_is_absent_at_the_start_is_waited_for(
    kafka: str, own_mariadb: RunningServer, tmp_path: Path
) -> None:
    installation = installed(kafka, own_mariadb.value, tmp_path)
    installation.send(traffic(33, 500, now=installation.now))
    own_mariadb.stop()
    with installation.worker() as worker:
        wait_until_it_says_so(worker)
        own_mariadb.start()
        worker.wait_ready(seconds=120)
        finish(installation, worker)
    installation.remove()


def test_a_database_that_is_killed_in_flight_is_waited_for(
    kafka: str, own_mariadb: RunningServer, tmp_path: Path
) -> None:
    installation = installed(kafka, own_mariadb.value, tmp_path)
    sent = traffic(34, 4000, now=installation.now)
    installation.send(sent[:3500])
    with installation.worker() as worker:
        wait_for(lambda: installation.stored_clicks() > 300, "the worker to be busy", seconds=60)
        own_mariadb.signal(signal.SIGKILL)
        wait_until_it_says_so(worker)
        installation.send(sent[3500:])
        own_mariadb.start()
        finish(installation, worker)
    installation.remove()
