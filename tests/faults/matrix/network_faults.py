"""What lies between workers and their servers: latency, a narrow line, cut connections, a COMMIT without its answer."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from tests.faults.matrix.contract import Fault, Run
from tests.faults.matrix.proxied_broker import running_proxied
from tests.faults.matrix.proxy import Proxy, proxied
from tests.faults.matrix.servers import Servers, Shared
from tests.support.processes import wait_for

LATENCY_SECONDS = 0.05
NARROW_BYTES = 125_000  # 1 Mbit a second
SPELL_SECONDS = 6
CUTS = 5
SLOWER = 100


@contextmanager
def behind_database_proxy(shared: Shared) -> Iterator[Servers]:
    url = shared.mariadb.value
    with proxied(urlsplit(url).port or 0) as proxy:
        yield Servers(shared.kafka.address, url, shared.memcached.address, extras={"mariadb": proxy})


@contextmanager
def behind_broker_proxy(shared: Shared) -> Iterator[Servers]:
    with running_proxied() as (port, proxy):
        yield Servers(f"127.0.0.1:{port}", shared.mariadb.value, shared.memcached.address, extras={"kafka": proxy})


def _proxy(run: Run) -> Proxy:
    (proxy,) = run.servers.extras.values()
    assert isinstance(proxy, Proxy)
    return proxy


def worse(run: Run) -> None:
    """Three spells one after the other."""
    proxy = _proxy(run)
    run.wait_progress(0.22)
    run.struck()
    proxy.latency = LATENCY_SECONDS
    time.sleep(SPELL_SECONDS)
    proxy.latency = 0.0
    run.struck()
    proxy.bytes_a_second = NARROW_BYTES
    time.sleep(SPELL_SECONDS)
    proxy.bytes_a_second = 0
    run.healed()
    cut = 0
    for _ in range(CUTS):
        run.struck()
        cut += proxy.cut_all()
        time.sleep(0.5)
    run.healed()
    assert cut, "no connection went through the proxy"
    run.note(f"{cut} connections cut")


def cut_behind_commit(run: Run) -> None:
    proxy = _proxy(run)
    run.wait_progress(0.22)
    for number in range(1, CUTS + 1):
        proxy.commits_to_cut = 1
        wait_for(lambda done=number: proxy.commits_cut >= done, "a COMMIT to cut behind", seconds=60)  # type: ignore[misc]
        run.struck()
    run.healed()


def slow_down(run: Run) -> None:
    proxy = _proxy(run)
    run.wait_progress(0.25)
    usual = proxy.usual_answer()
    run.struck()
    proxy.answer_delay = SLOWER * usual
    time.sleep(2 * SPELL_SECONDS)
    proxy.answer_delay = 0.0
    run.healed()
    run.note(f"each answer came {1000 * SLOWER * usual:.0f} ms late, it had taken {1000 * usual:.1f} ms")


FAULTS = [
    Fault(
        "database-network",
        f"50 ms latency, then 1 Mbit/s, {SPELL_SECONDS} s each, then all connections to the database cut {CUTS} times",
        worse,
        servers=behind_database_proxy,
        rate=100,
    ),
    Fault(
        "broker-network",
        f"the same with the broker: latency, a narrow line, all connections cut {CUTS} times",
        worse,
        servers=behind_broker_proxy,
        rate=100,
    ),
    Fault(
        "commit-without-answer",
        f"the connection is cut behind a COMMIT that the database gets, {CUTS} times",
        cut_behind_commit,
        servers=behind_database_proxy,
        rate=120,
    ),
    Fault(
        "database-slow",
        f"each answer of the database takes {SLOWER} times as long as usual, for {2 * SPELL_SECONDS} s",
        slow_down,
        servers=behind_database_proxy,
        rate=100,
    ),
]
