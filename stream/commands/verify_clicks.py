"""Stored clicks against those that the log gives: each is there, in all its columns, and no other (I1)."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from stream.commands.replay_plan import Wish
from stream.core.events import Click, click_rank
from stream.replay.comparing import Difference, of_row
from tables.sql.database import Database
from tables.sql.standing_clicks import clicks_in_order


@dataclass(frozen=True, slots=True, kw_only=True)
class ClickComparison:
    """What should stand in `installed` is in `computed`."""

    wish: Wish
    installed: Database
    computed: Database
    history_from: int  # clicks that are older the retention may have removed
    is_log_short: bool  # SQL may rightly know more than the log

    async def differences(self) -> AsyncIterator[Difference]:
        """Both sides ascending by id, and neither of them in memory."""
        wish = self.wish
        expected = clicks_in_order(self.computed, wish.users, wish.start, wish.end)
        standing = clicks_in_order(self.installed, wish.users, wish.start, wish.end)
        wanted, there = await anext(expected, None), await anext(standing, None)
        while wanted is not None or there is not None:
            click_id = min(each.click_id for each in (wanted, there) if each is not None)
            has_wanted, has_there = (each is not None and each.click_id == click_id for each in (wanted, there))
            should, stands = wanted if has_wanted else None, there if has_there else None
            if not self._is_excused(should, stands):
                for difference in of_row("click", str(click_id), should, stands):
                    yield difference
            if has_wanted:
                wanted = await anext(expected, None)
            if has_there:
                there = await anext(standing, None)

    def _is_excused(self, should: Click | None, stands: Click | None) -> bool:
        if should is not None and should.click_time < self.history_from:
            return True  # gone, or come again by a late report of it
        if stands is None or not self.is_log_short:
            return False
        return should is None or click_rank(stands) >= click_rank(should)
