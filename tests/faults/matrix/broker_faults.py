"""A broker that is killed, restarted again and again, or not there when workers start."""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.faults.matrix.cluster import NODES, Cluster, running_cluster
from tests.faults.matrix.contract import Fault, Run
from tests.faults.matrix.servers import Servers, Shared, own
from tests.support.processes import wait_for

AWAY_SECONDS = 8


def kill(run: Run) -> None:
    broker = run.servers.parts["kafka"]
    run.wait_progress(0.3)
    run.struck()
    broker.signal(signal.SIGKILL)
    broker.start()
    run.healed()


def restart(run: Run) -> None:
    broker = run.servers.parts["kafka"]
    run.wait_progress(0.22)
    for _ in range(5):
        run.struck()
        broker.stop()
        broker.start()
        run.healed()
        run.wait_caught_up()


def be_absent(run: Run) -> None:
    """Workers that start while the broker is away, with a part of the log done."""
    broker = run.servers.parts["kafka"]
    run.wait_progress(0.3)
    assert run.workforce.dismiss_all() == [0]
    run.struck()
    broker.stop()
    run.workforce.hire()
    wait_until_it_waits(run)
    broker.start()
    run.healed()
    run.workforce.wait_ready()


def wait_until_it_waits(run: Run) -> None:
    """/readyz names what is waited for."""

    def says_so() -> bool:
        status, text = run.workforce.workers[0].health("/readyz")
        return status == 503 and bool(json.loads(text)["waiting_for"])

    wait_for(says_so, "/readyz to say what is waited for", seconds=90)


@contextmanager
def on_three_brokers(shared: Shared) -> Iterator[Servers]:
    with running_cluster() as cluster:
        yield Servers(cluster.addresses, shared.mariadb.value, shared.memcached.address, extras={"cluster": cluster})


def lose_one(run: Run) -> None:
    """Each of the three in turn; the two that are left go on, and it comes back."""
    cluster: Cluster = run.servers.extras["cluster"]
    run.wait_progress(0.22)
    for number in NODES:
        run.struck()
        cluster.kill(number)
        time.sleep(AWAY_SECONDS)
        cluster.start(number)
        run.healed()
        run.wait_caught_up()


FAULTS = [
    Fault("broker-killed", "kill -9 of the broker, which is started again at once", kill, servers=own("kafka")),
    Fault(
        "broker-restarted-5-times",
        "five clean restarts of the broker, each once the workers have caught up",
        restart,
        servers=own("kafka"),
        workers=2,
        events=6000,
        rate=40,
    ),
    Fault(
        "broker-absent-at-start",
        "a worker starts while the broker is away",
        be_absent,
        servers=own("kafka"),
        events=3000,
        rate=100,
    ),
    Fault(
        "broker-lost-of-three",
        f"kill -9 of each of three brokers in turn, which is back after {AWAY_SECONDS} s",
        lose_one,
        servers=on_three_brokers,
        events=6000,
        rate=75,
    ),
]
