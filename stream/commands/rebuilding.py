"""How are the hours of an account made again? From SQL alone, an hour a transaction, under a lease that others see.

The fire is the worker's own, behind the same lock: a worker, another rebuild and this one follow one another at each
hour, and all of them leave the rows that the journeys give. The lease only spares doing the same work twice.
"""

import asyncio
import contextlib
import os
import random
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from stream.agents.firing import HoursAtWork, Order, fire
from stream.commands.authorship import author_of
from stream.commands.rebuild_report import AccountReport, Telling, WindowOfHours
from stream.core.configuration import Configuration
from stream.core.errors import Unavailable
from stream.core.hours import HourKey
from tables.sql.accounts import lock_accounts
from tables.sql.audit import AuditAction, AuditEntry, write_audit
from tables.sql.connections import Connection
from tables.sql.database import Database
from tables.sql.errors import TransactionConflict
from tables.sql.hour_store import SqlHourStore
from tables.sql.rebuild_ranges import hours_between
from tables.sql.runs import Claim, Run, RunKind, RunState, Window, claim_run, finish_run, renew_run

LEASE_S = 30
RENEWAL_S = 5.0
PATIENCE_S = 60.0
_WAIT_S = 0.5
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0
_LAST_WORD_S = 2.0

_Result = TypeVar("_Result")


class LeaseLost(Exception):
    """This process stood still for so long that another one took the window over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What all accounts of a rebuild share."""

    database: Database
    store: SqlHourStore
    final_before: int  # hours that begin earlier are final
    with_extra_scopes: bool
    is_forced: bool
    clock: Callable[[], int]
    patience: float = PATIENCE_S


def check_stopped() -> None:
    """Raises CancelledError where this task was cancelled before and went on.

    Up to Python 3.11 asyncio.wait_for forgets a cancellation that comes together with its result, and a driver of ours
    waits for each answer of the server with it.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def patiently(work: Callable[[], Awaitable[_Result]], *, limit: float) -> _Result:
    """Repeats what another transaction was in the way of, or what the database did not answer, for `limit` seconds."""
    now = asyncio.get_running_loop().time
    deadline: float | None = None
    pause = _FIRST_PAUSE_S
    while True:
        check_stopped()
        try:
            return await work()
        except Unavailable as error:
            deadline = deadline or now() + limit
            if now() >= deadline:
                raise
            if not isinstance(error, TransactionConflict):
                pause = min(_LONGEST_PAUSE_S, pause * 2)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 -- two that collided shall not again


class Lease:
    """A run of ours, kept alive beside the work on it."""

    def __init__(self, means: Means, run: Run, report: AccountReport) -> None:
        self._means = means
        self._run = run
        self._report = report
        self._is_lost = False

    def check(self) -> None:
        if self._is_lost:
            raise LeaseLost

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Ends the run as failed when left by an exception, also that of being stopped."""
        keeper = asyncio.create_task(self._keep())
        try:
            yield
        except BaseException as error:
            reason = "stopped" if isinstance(error, asyncio.CancelledError) else str(error) or type(error).__name__
            # Others need not wait for the lease to run out then. If the database is away, they will.
            with contextlib.suppress(Exception):
                async with asyncio.timeout(_LAST_WORD_S):
                    await self._give_up(reason)
            raise
        finally:
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper

    async def finish(self, connection: Connection) -> None:
        """Raises LeaseLost."""
        is_ours = await self._renew(connection)  # the counts
        if not (is_ours and await finish_run(connection, self._run, RunState.FINISHED, now=self._means.clock())):
            raise LeaseLost

    async def _give_up(self, error: str) -> None:
        async with self._means.database.transaction() as connection:
            await finish_run(connection, self._run, RunState.FAILED, now=self._means.clock(), error=error)

    async def _keep(self) -> None:
        while not self._is_lost:
            await asyncio.sleep(RENEWAL_S)
            with contextlib.suppress(Unavailable):  # the work itself finds out, and decides how long to wait
                self._is_lost = not await self._renewed()

    async def _renewed(self) -> bool:
        async with self._means.database.transaction() as connection:
            return await self._renew(connection)

    async def _renew(self, connection: Connection) -> bool:
        return await renew_run(
            connection,
            self._run,
            now=self._means.clock(),
            lease=LEASE_S,
            hours_done=self._report.hours_done,
            hours_total=self._report.hours_total,
        )


class AccountRebuild:
    """The hours of one account in one window."""

    def __init__(self, means: Means, user_id: int, window: WindowOfHours, telling: Telling) -> None:
        self._means = means
        self._window = Window(RunKind.REBUILD, user_id, window.start, window.end)
        self._telling = telling
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"

    async def run(self) -> AccountReport:
        """Does nothing where a run of the window has finished and nothing was forced. Raises what went wrong."""
        has_waited = False
        while True:
            configuration = await self._patiently(self._configuration)
            claim = await self._patiently(partial(self._claim, configuration))
            # A claim of ours whose answer was lost on its way stands there as at work.
            if claim.is_ours or (claim.run.state is RunState.RUNNING and claim.run.owner == self._owner):
                with contextlib.suppress(LeaseLost):
                    return await self._rebuilt(claim.run, configuration)
            elif claim.run.state is RunState.FINISHED:
                report = AccountReport(self._window.user_id, is_skipped=True)
                self._telling.end(report)
                return report
            else:
                if not has_waited:
                    self._telling.waiting(self._window.user_id, claim.run.owner)
                    has_waited = True
                await asyncio.sleep(_WAIT_S)

    async def _rebuilt(self, run: Run, configuration: Configuration) -> AccountReport:
        report = AccountReport(self._window.user_id)
        lease = Lease(self._means, run, report)
        async with lease.kept():
            hours = await self._patiently(self._hours)
            self._telling.begin(report, hours_total=len(hours))
            for date_hour in hours:
                lease.check()
                await self._patiently(partial(self._fire, date_hour, report))
                self._telling.advance(report)
            await self._patiently(partial(self._finish, lease, report, configuration))
        self._telling.end(report)
        return report

    async def _patiently(self, work: Callable[[], Awaitable[_Result]]) -> _Result:
        return await patiently(work, limit=self._means.patience)

    async def _configuration(self) -> Configuration:
        """An account without models gets its first one here, so that its revision stays the same over the run."""
        user_id = self._window.user_id
        async with self._means.store.transaction() as transaction:
            await transaction.lock_accounts([user_id])
            return (await transaction.read_configurations([user_id]))[user_id]

    async def _claim(self, configuration: Configuration) -> Claim:
        means = self._means
        async with means.database.transaction() as connection:
            now = means.clock()
            await lock_accounts(connection, [self._window.user_id], now=now)
            return await claim_run(
                connection,
                self._window,
                configuration=configuration.revision,
                owner=self._owner,
                now=now,
                lease=LEASE_S,
                is_forced=means.is_forced,
            )

    async def _hours(self) -> list[int]:
        window = self._window
        async with self._means.database.reading() as connection:
            return await hours_between(connection, window.user_id, start=window.start, end=window.end)

    async def _fire(self, date_hour: int, report: AccountReport) -> None:
        key = HourKey(self._window.user_id, date_hour)
        order = Order(anew=[key], final_before=self._means.final_before)
        async with self._means.store.transaction() as transaction:
            fired = await fire(transaction, HoursAtWork(0), order, with_extra_scopes=self._means.with_extra_scopes)
        problems = next((each.change.row.problems for each in fired.hours if each.change.key == key), {})
        report.add(fired.memory.get(key), problems)

    async def _finish(self, lease: Lease, report: AccountReport, configuration: Configuration) -> None:
        """With the audit rows. As it always was: a window without anything in it leaves none."""
        model_ids = {model.model_id for model in configuration.models} | set(configuration.broken)
        async with self._means.database.transaction() as connection:
            await lease.finish(connection)
            for model_id in sorted(model_ids if report.hours_total else ()):
                entry = AuditEntry(
                    user_id=self._window.user_id,
                    model_id=model_id,
                    action=AuditAction.SNAPSHOT_REBUILD,
                    before=None,
                    after=None,
                    also=report.audited(model_id, self._window.start, self._window.end),
                )
                await write_audit(connection, entry, author_of(""), now=self._means.clock())
