"""What a fire writes of one hour: from the hour as it is in memory, and from what SQL had of it."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence

from stream.core.hours import CreditRow, Hour, HourKey, steps_of
from stream.core.models import Model
from stream.core.results import HourChange, HourContents, HourRow, SnapshotRow
from stream.core.totals import Scope, ScopeKey, Total

_STEPS_AT_A_TIME = 500  # an hour may hold a hundred thousand conversions, each with 26 touches for every model


class Pace:
    """Computing may take minutes: others want their turn, and the server hangs up on who is silent meanwhile."""

    def __init__(self, keep_alive: Callable[[], Awaitable[None]]) -> None:
        self._keep_alive = keep_alive
        self._steps = 0

    async def went(self, steps: int = 1) -> None:
        """A step is about a conversion."""
        self._steps += steps
        if self._steps >= _STEPS_AT_A_TIME:
            self._steps = 0
            await self._keep_alive()


async def credit_rows(hour: Hour, conv_ids: Iterable[int], models: Sequence[Model], pace: Pace) -> list[CreditRow]:
    rows: list[CreditRow] = []
    for conv_id in sorted(conv_ids):
        await pace.went()
        if conv_id in hour:
            rows += hour.credits_of(conv_id, models)
    return rows


def snapshot_changes(
    hour: Hour, contents: HourContents | None, problems: Collection[int], *, is_foreign: bool, is_rewritten: bool
) -> tuple[Sequence[SnapshotRow], Sequence[ScopeKey]]:
    """What is to be written of the totals, and what is to go.

    Rows of the system that was here before are written also where they are equal: no topic has them, and their bounds
    are others.
    """
    stored = {each.key: each for each in contents.snapshots} if contents else {}
    concerned = {*hour.totals, *stored} if contents or is_rewritten else {*hour.changed}
    snapshots, removed = [], []
    for scope_key in sorted(concerned | hour.changed):
        total = hour.totals.get(scope_key)
        if total is None or scope_key.model_id in problems:
            if contents is None or scope_key in stored:
                removed.append(scope_key)
        elif (row := snapshot_row(scope_key, total)) != stored.get(scope_key) or is_foreign:
            snapshots.append(row)
    return snapshots, removed


def snapshot_row(key: ScopeKey, total: Total) -> SnapshotRow:
    return SnapshotRow(key, total.clicks, total.conversions, steps_of(total.revenue), steps_of(total.cost))


def lacks_credits(hour: Hour, contents: HourContents, problems: Collection[int], changed: Collection[int]) -> bool:
    """Did another hand take a model's global snapshot away, with the credits of conversions that did not change?"""
    if all(conv_id in changed for conv_id in hour.conv_ids()):
        return False
    stored = {each.key for each in contents.snapshots}
    computed = (model.model_id for model in hour.configuration.models if model.model_id not in problems)
    return any(ScopeKey(model_id, Scope.GLOBAL, 0) not in stored for model_id in computed)


def finished(key: HourKey, row: HourRow) -> HourChange:
    """The hour became final, and nothing else about it changed."""
    return HourChange(
        key=key,
        row=row._replace(revision=row.revision + 1, is_final=True),
        snapshots=(),
        removed_snapshots=(),
        cleared=(),
        credits=(),
        credited={},
        uncredited=(),
    )
