"""Replay, purge and rebuild while workers, a server or they themselves are killed; each is at work at each stroke."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.faults.matrix.beside import LongCommand, own_with_slow_commands, with_slow_commands
from tests.faults.matrix.contract import Fault, Run
from tests.faults.matrix.database_faults import everything
from tests.faults.matrix.network_faults import behind_database_proxy
from tests.faults.matrix.root_access import pid_of
from tests.faults.matrix.servers import Servers, Shared

BEGINS_AT = 0.22
CUTS = 3
IS_AT_WORK = "is at work"  # a run that was killed has its lease for half a minute
SMALL_PAGES = "tests.support.small_pages"


def replay(run: Run) -> None:
    broker = run.servers.parts["kafka"]

    def kill_broker() -> None:
        broker.signal(signal.SIGKILL)
        broker.start()
        run.healed()

    arguments = ("replay", *everything(run), "--batch-size", "5")
    _strike_five_times(run, kill_broker, *arguments, forgiven=(IS_AT_WORK,))


def purge(run: Run) -> None:
    """What it took goes once more through a replay behind it; what came later was computed by the worker."""
    database = run.servers.parts["mariadb"]

    def kill_database() -> None:
        os.kill(pid_of(database), signal.SIGKILL)
        database.start()
        run.healed()

    _strike_five_times(run, kill_database, "purge", *everything(run), module=SMALL_PAGES)
    run.flow.wait_sent()
    LongCommand(run, "replay", *everything(run)).finish()


def rebuild(run: Run) -> None:
    proxies = list(run.servers.extras.values())

    def cut_database() -> None:
        for _ in range(CUTS):
            cut = [proxy.cut_all() for proxy in proxies]
            assert all(cut), "no connection to cut"
            time.sleep(1.5)
        run.healed()

    _strike_five_times(run, cut_database, "rebuild", *everything(run), "--force")


def kill_worker(run: Run) -> None:
    run.workforce.workers[0].kill()


def _strike_five_times(
    run: Run,
    strike_server: Callable[[], None],
    *arguments: str,
    module: str = "stream",
    forgiven: tuple[str, ...] = (),
) -> None:
    """The worker thrice, a server once among them, and the command itself at last; then it is let to its end."""
    run.wait_progress(BEGINS_AT)
    command = LongCommand(run, *arguments, module=module, forgiven=forgiven)
    command.strike(lambda: kill_worker(run))
    command.strike(strike_server)
    command.strike(lambda: kill_worker(run))
    command.strike(lambda: kill_worker(run))
    command.strike(command.kill)
    command.finish()


@contextmanager
def with_both_behind_proxies(shared: Shared) -> Iterator[Servers]:
    """Workers and commands each by a way of their own."""
    with with_slow_commands(behind_database_proxy)(shared) as servers:
        yield servers


FAULTS = [
    Fault(
        "replay-and-kills",
        "a replay of everything while the worker is killed three times, the broker once, and then the replay",
        replay,
        servers=own_with_slow_commands("kafka"),
        events=6000,
        rate=60,
    ),
    Fault(
        "purge-and-kills",
        "a purge of everything while the worker is killed three times, the database once, and then the purge;"
        " behind it a replay",
        purge,
        servers=own_with_slow_commands("mariadb"),
        events=6000,
        rate=60,
    ),
    Fault(
        "rebuild-and-kills",
        "a rebuild of all hours while the worker is killed three times, all connections of both to the database are"
        f" cut {CUTS} times, and then the rebuild is killed",
        rebuild,
        servers=with_both_behind_proxies,
        events=6000,
        rate=60,
    ),
]
