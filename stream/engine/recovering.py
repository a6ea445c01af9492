"""Faust's recovery, which ends for good where a broker takes longer than its request timeout: ours waits.

`Recovery._wait` takes a time that ran out for the stop of the service, and its task ends: the process would stay in the
group, with partitions that nobody ever opens. What is waited for ends by itself: a rebalance or a stop ends it at once,
and a broker that is away raises in the end, which ends the process.
"""

from typing import Any

from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery


class PatientRecovery(Recovery):
    """Gives up for a rebalance, a stop or an error, never for the time."""

    async def _wait(self, coro: Any, timeout: Any = None) -> None:
        await super()._wait(coro)


class PatientTables(TableManager):
    """Faust's manager of tables, with our recovery."""

    @property
    def recovery(self) -> Recovery:
        if self._recovery is None:
            self._recovery = PatientRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery
