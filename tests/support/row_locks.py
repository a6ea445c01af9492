"""Locks on rows as InnoDB has them: held until a transaction ends, and a deadlock costs the one that would close it."""

import asyncio
from collections.abc import Hashable

from stream.core.errors import Unavailable


class RowLocks:
    """Holders are compared by identity. Who waits is served in the order of asking, if nobody is quicker."""

    def __init__(self) -> None:
        self._holders: dict[Hashable, object] = {}
        self._waiting: dict[int, Hashable] = {}  # by id of the waiting holder
        self._released: dict[Hashable, asyncio.Event] = {}
        self._gone: dict[int, object] = {}  # kept, for an id is one as long as its object lives
        self.waits = 0
        self.deadlocks = 0

    async def take(self, holder: object, row: Hashable) -> None:
        """Raises Unavailable where waiting would never end."""
        while (owner := self._holders.get(row, holder)) is not holder:
            self.waits += 1
            self._check(holder, owner)
            self._waiting[id(holder)] = row
            try:
                await self._released.setdefault(row, asyncio.Event()).wait()
            finally:
                self._waiting.pop(id(holder), None)
            if id(holder) in self._gone:
                await asyncio.Event().wait()  # its connection is closed, and nobody listens any more
        self._holders[row] = holder

    def _check(self, holder: object, owner: object) -> None:
        while (row := self._waiting.get(id(owner))) is not None:
            following = self._holders.get(row)
            if following is None or following is owner:
                return
            if following is holder:
                self.deadlocks += 1
                raise Unavailable("deadlock found when trying to get lock")
            owner = following

    def holds(self, holder: object, row: Hashable) -> bool:
        return self._holders.get(row) is holder

    def release(self, holder: object) -> None:
        """All of them."""
        for row in [row for row, owner in self._holders.items() if owner is holder]:
            del self._holders[row]
            if (event := self._released.pop(row, None)) is not None:
                event.set()

    def abandon(self, holder: object) -> None:
        """The connection of the holder was cut: the server rolls back."""
        self._gone[id(holder)] = holder
        self.release(holder)

    @property
    def is_any_held(self) -> bool:
        return bool(self._holders)
