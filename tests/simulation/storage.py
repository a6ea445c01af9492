"""The database of a simulated system, in memory: both twins, with a step of chance before everything they do."""

import copy
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from stream.agents.firing import HoursAtWork, Order, fire
from stream.agents.hour_ports import HourStore
from stream.agents.ports import FactStore
from stream.core.events import Click
from stream.core.hours import HourKey
from stream.core.progress import PartitionProgress
from stream.core.toggles import Toggle, ToggleScope
from stream.replay.ports import ReplayStore
from tests.simulation.processes import Process, Steps
from tests.support.hour_books import stored
from tests.support.hour_changes import reconfigure
from tests.support.hour_examples import DEFINITIONS, as_model, as_switch, model_row
from tests.support.hour_oracle import ExpectedHours, Model, Switch
from tests.support.memory_hours import MemoryHours, MemoryHourStore
from tests.support.memory_store import MemoryDatabase, MemoryStore
from tests.support.oracle import JourneyRow, Touchpoint

JOURNEYS, HOURS = "journeys", "hours"


class ShownJourney(NamedTuple):
    """A journey as SQL has it, in plain values."""

    conv_id: int
    user_id: int
    campaign_id: int
    visitor_id: str
    conv_time: int
    click_id: int
    outcome: str
    version: int
    touches: tuple[tuple[int, int], ...]  # click and time, by position


class ShownHour(NamedTuple):
    """`is_current`: computed with the models and settings of now."""

    revision: int
    published: int
    is_final: bool
    is_current: bool


@dataclass(frozen=True, slots=True)
class Rows:
    """All that the oracle can say something about."""

    touchpoints: Sequence[Touchpoint]
    journeys: Sequence[JourneyRow]
    logs: Sequence[int]
    hours: ExpectedHours


class Commit(NamedTuple):
    """What a transaction of an agent, or of another hand, has just committed."""

    owner: str
    group: str
    partition: int | None  # None: it passed no fence
    next_offsets: Mapping[str, int]
    conv_ids: Sequence[int]  # whose journeys it wrote
    is_writing: bool  # facts, journeys or hours


Evict = Callable[[Sequence[int]], Awaitable[object]]


class Storage(Protocol):
    """Ports for the product, and eyes and hands for the simulation. Hands that are no port work outside of any step."""

    on_commit: Callable[[Commit], None]
    on_hours: Callable[[], None]
    hides_touches: bool  # of conversions whose multi-touch is off

    def facts(self, process: Process) -> FactStore: ...
    def replays(self, process: Process) -> ReplayStore: ...
    def hours(self, process: Process) -> HourStore: ...
    def cut_off(self, owner: str) -> None: ...
    def progress(self, group: str) -> Mapping[int, PartitionProgress]: ...
    def journeys(self, conv_ids: Sequence[int] | None = None) -> list[ShownJourney]: ...
    def clicks(self) -> Sequence[Click]: ...
    def hour_rows(self) -> Mapping[HourKey, ShownHour]: ...
    def rows(self) -> Rows: ...
    def configuration(self) -> tuple[list[Model], list[Switch]]: ...
    def torn(self) -> str: ...
    def unaudited(self) -> str: ...
    def delete(self, clicks: Set[int], conversions: Set[int]) -> None: ...
    def back_up(self) -> object: ...
    def restore(self, kept: Any) -> None: ...  # noqa: ANN401
    def reset(self) -> None: ...
    def deadlocks(self) -> int: ...
    def purged(self) -> Set[int]: ...
    async def reconfigure(self, process: Process, chance: random.Random) -> None: ...
    async def switch(self, process: Process, chance: random.Random, evict: Evict) -> None: ...
    async def resume_changes(self, process: Process, evict: Evict) -> None: ...
    async def rebuild(self, process: Process, keys: Sequence[HourKey]) -> None: ...
    async def purge(self, process: Process, conv_ids: Sequence[int]) -> Sequence[Any]: ...
    def close(self) -> None: ...


class MemoryStorage:
    """Satisfies Storage."""

    hides_touches = False

    def __init__(
        self, step: Steps, users: Sequence[int], chance: random.Random, *, partitions: int, since: int
    ) -> None:
        self._since = since  # unix seconds of the first conversions
        self._users = users
        self._partitions = partitions
        self.on_commit: Callable[[Commit], None] = lambda _commit: None
        self.on_hours: Callable[[], None] = lambda: None
        self.database = MemoryDatabase()
        self.hours_database = MemoryHours(lambda: self.database.facts.journeys, lambda: self.database.progress)
        for user_id in users:
            self.hours_database.models[user_id] = [
                model_row(user_id * 100 + number, *chance.choice(DEFINITIONS)) for number in range(chance.randrange(3))
            ]
        self._step = step
        self._deadlocks = 0
        self._connect()

    def _connect(self) -> None:
        async def before(name: str) -> None:
            await self._step(f"sql:{name} of journeys")

        async def before_of_hours(name: str) -> None:
            await self._step(f"sql:{name} of hours")

        self.database.before_step, self.hours_database.before_step = before, before_of_hours
        self.database.partitions = self._partitions
        self.database.facts.credited_versions = self._credited_versions
        self.database.after_commit = lambda done: self.on_commit(
            Commit(
                done.owner,
                JOURNEYS,
                done.advance.partition if done.advance else None,
                done.advance.next_offsets if done.advance else {},
                sorted(done.journeys),
                bool(done.clicks or done.journeys),
            )
        )
        self.hours_database.after_transaction = lambda done: self.on_commit(
            Commit(
                done.owner,
                HOURS,
                done.advance.partition if done.advance else None,
                done.advance.next_offsets if done.advance else {},
                (),
                done.is_writing,
            )
        )
        self.hours_database.after_commit = self._fired

    def _credited_versions(self) -> Mapping[int, int]:
        return {conv_id: at.version for conv_id, at in self.hours_database.credited.items()}

    def _fired(self) -> None:
        self.on_hours()

    def facts(self, process: Process) -> FactStore:
        return MemoryStore(self.database, process.name)

    def replays(self, process: Process) -> ReplayStore:
        return MemoryStore(self.database, process.name)

    def hours(self, process: Process) -> HourStore:
        return MemoryHourStore(self.hours_database, process.name)

    def cut_off(self, owner: str) -> None:
        self.database.cut_off(owner)
        self.hours_database.cut_off(owner)

    def progress(self, group: str) -> Mapping[int, PartitionProgress]:
        return self.database.progress if group == JOURNEYS else self.hours_database.progress

    def journeys(self, conv_ids: Sequence[int] | None = None) -> list[ShownJourney]:
        found = self.database.facts.journeys
        wanted = sorted(found) if conv_ids is None else [conv_id for conv_id in conv_ids if conv_id in found]
        return [
            ShownJourney(
                each.conversion.conv_id,
                each.conversion.user_id,
                each.conversion.campaign_id,
                each.visitor_id,
                each.conversion.conv_time,
                each.conversion.click_id,
                each.outcome.value,
                each.version,
                tuple((touch.click_id, touch.click_time) for touch in each.touches),
            )
            for each in (found[conv_id] for conv_id in wanted)
        ]

    def clicks(self) -> Sequence[Click]:
        return list(self.database.facts.clicks.values())

    def hour_rows(self) -> Mapping[HourKey, ShownHour]:
        database = self.hours_database
        revisions = {user_id: database.configuration(user_id).revision for user_id in self._users}
        return {
            key: ShownHour(
                hour.row.revision,
                hour.row.published_revision,
                hour.row.is_final,
                hour.row.configuration == revisions[key.user_id],
            )
            for key, hour in sorted(database.hours.items())
            if hour.row.revision
        }

    def rows(self) -> Rows:
        facts = self.database.facts
        return Rows(
            [Touchpoint(*row) for row in facts.touchpoints()],
            [
                JourneyRow(conv_id, each.outcome.value, each.click_unknown)
                for conv_id, each in sorted(facts.journeys.items())
            ],
            sorted(self.database.logs),
            stored(self.hours_database),
        )

    def configuration(self) -> tuple[list[Model], list[Switch]]:
        database = self.hours_database
        models = [
            as_model(user_id, row)
            for user_id in self._users
            for row in database.models[user_id]
            if row.is_active and "{broken" not in row.config_text
        ]
        return models, [as_switch(user_id, toggle) for user_id in self._users for toggle in database.toggles[user_id]]

    def torn(self) -> str:
        """'' where each global snapshot is the sum of its credits."""
        for key, hour in self.hours_database.hours.items():
            if not hour.row.revision:
                continue
            credits: dict[int, list[tuple[int, int]]] = {}
            for credit in hour.credits.values():
                credits.setdefault(credit.model_id, []).append((credit.conv_id, credit.credit))
            totals = {row.key.model_id: row for row in hour.snapshots.values() if row.key.scope == "global"}
            if credits.keys() != totals.keys():
                return f"hour {key} has credits of {sorted(credits)} and totals of {sorted(totals)}"
            for model_id, total in totals.items():
                given = credits[model_id]
                counted = len({conv_id for conv_id, _ in given})
                if (total.clicks, total.conversions) != (len(given), counted) or sum(
                    parts for _, parts in given
                ) != 100_000 * counted:
                    return f"hour {key} model {model_id} is torn: {total} of {given}"
                taken = [self.hours_database.credited_as[conv_id] for conv_id in {conv_id for conv_id, _ in given}]
                money = sum(each.payout for each in taken), sum(each.cost for each in taken)
                if abs(10 * total.revenue - money[0]) > 5 or abs(10 * total.cost - money[1]) > 5:
                    return f"hour {key} model {model_id} has other money than its credits: {total} of {taken}"
        return ""

    def unaudited(self) -> str:
        """The twin has no audit rows."""
        return ""

    def delete(self, clicks: Set[int], conversions: Set[int]) -> None:
        """By hand."""
        facts = self.database.facts
        for click_id in clicks:
            del facts.clicks[click_id]
        for conv_id in conversions:
            del facts.journeys[conv_id]
            self.database.logs.pop(conv_id, None)

    def back_up(self) -> object:
        hours = self.hours_database
        kept = hours.hours, hours.credited, hours.credited_as, hours.progress, hours.models, hours.toggles
        return self.database.copy(), copy.deepcopy(kept)

    def restore(self, kept: Any) -> None:  # noqa: ANN401
        facts, hours = kept
        self._deadlocks += self.database.locks.deadlocks  # the copy has locks of its own
        for each in (self.database, self.hours_database):
            assert not each.under_way, "nobody works at a database that is being restored"
        self.database = facts
        database = self.hours_database
        database.hours, database.credited, database.credited_as, database.progress, *configured = hours
        database.models, database.toggles = configured
        self._connect()

    def reset(self) -> None:
        self.database.reset_progress()
        for number, row in self.hours_database.progress.items():
            self.hours_database.progress[number] = PartitionProgress(
                number, row.epoch + 1, "", {}, 0, {}, 0, 0, row.history_from, ()
            )

    def deadlocks(self) -> int:
        return self._deadlocks + self.database.locks.deadlocks + self.hours_database.locks.deadlocks

    def purged(self) -> Set[int]:
        return frozenset()

    async def resume_changes(self, process: Process, evict: Evict) -> None:
        """Each is one step here."""

    async def switch(self, process: Process, chance: random.Random, evict: Evict) -> None:
        """Here settings are changed with the models."""

    async def reconfigure(self, process: Process, chance: random.Random) -> None:
        if chance.random() < 0.7:
            reconfigure(chance, self.hours_database, users=self._users)
            return
        scope = chance.choice(list(ToggleScope))
        ids = {ToggleScope.GLOBAL: [0], ToggleScope.ADVERTISER: range(1, 10), ToggleScope.CAMPAIGN: range(101, 105)}
        since = chance.randrange(self._since, self._since + 40 * 86_400)
        toggle = Toggle(scope, chance.choice(ids[scope]), since, chance.random() < 0.5)
        self.hours_database.toggles[chance.choice(self._users)].append(toggle)

    async def rebuild(self, process: Process, keys: Sequence[HourKey]) -> None:
        """As the command does it: one hour a transaction."""
        store = MemoryHourStore(self.hours_database, process.name)
        for key in keys:
            async with store.transaction() as transaction:
                await fire(transaction, HoursAtWork(0), Order(anew=[key]), with_extra_scopes=True)

    async def purge(self, process: Process, conv_ids: Sequence[int]) -> Sequence[Any]:
        """The command knows SQL alone."""
        return ()

    def close(self) -> None: ...
