"""The servers of a run: shared ones where a fault leaves them whole, own ones where it breaks them."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tests.support.servers import RunningServer, run_sql, running


@dataclass(frozen=True, slots=True)
class Servers:
    """What one run has: addresses as its workers get them, and the servers behind them."""

    kafka: str
    mariadb: str  # URL of a server; each run makes a database of its own on it
    memcached: str
    parts: dict[str, RunningServer] = field(default_factory=dict)  # by "kafka", "mariadb", "memcached"
    extras: dict[str, Any] = field(default_factory=dict)  # what a fault puts between workers and servers


class Shared:
    """Starts each server when it is first asked for, and ends them all at the end."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    @cached_property
    def kafka(self) -> RunningServer:
        return self._stack.enter_context(running("kafka"))

    @cached_property
    def mariadb(self) -> RunningServer:
        return self._stack.enter_context(running("mariadb"))

    @cached_property
    def memcached(self) -> RunningServer:
        return self._stack.enter_context(running("memcached"))


Provide = Callable[[Shared], AbstractContextManager[Servers]]


def own(*broken: str) -> Provide:
    """Servers of which those named ("kafka", "mariadb", "memcached") belong to this run alone."""

    @contextmanager
    def provide(shared: Shared) -> Iterator[Servers]:
        with ExitStack() as stack:
            parts: dict[str, RunningServer] = {
                name: stack.enter_context(running(name)) if name in broken else getattr(shared, name)
                for name in ("kafka", "mariadb", "memcached")
            }
            yield Servers(parts["kafka"].address, parts["mariadb"].value, parts["memcached"].address, parts)

    return provide


shared_servers = own()


@contextmanager
def new_database(mariadb: str) -> Iterator[str]:
    """URL of an empty database on that server, dropped at the end if the server still answers."""
    name = f"touchstream_{uuid.uuid4().hex[:12]}"
    run_sql(mariadb, f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
    yield mariadb.replace("/touchstream?", f"/{name}?")
    run_sql(mariadb, f"DROP DATABASE IF EXISTS {name}")
