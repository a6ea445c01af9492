"""The store in memory and the one in SQL are asked the same and answer the same: the simulation stands on that."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import pytest

from stream.agents.ports import FactStore, FactTransaction
from stream.core.errors import Fenced, Unavailable
from stream.core.events import Click, Conversion
from stream.core.facts import EnteredNeed, HistoryNeed, Journey, Moment, Needs, Outcome, Touch
from stream.core.keys import JourneyKey
from stream.core.money import Units
from stream.core.progress import Advance, PartitionProgress
from stream.replay.ports import ReplayStore
from stream.wire import limits
from tables.sql.database import Database
from tables.sql.facts import Writing
from tables.sql.replays import SqlReplayStore
from tests.sql.conftest import NOW, StoreFactory
from tests.support.memory_store import MemoryDatabase, MemoryStore
from tests.support.model_rows import run

_Value = TypeVar("_Value")

OWNER = "worker-1"
# Alike in case, accents, composition, width, folding or spaces; beyond the basic plane; longest; hostile to quoting.
TEXTS = (
    "", "a", "A", "á", "a\u0301", "ä", "\uff41", "ss", "ß", "i", "İ", "\u0131", "x y", "x  y", "x\u00a0y", "x\ty", "x",
    "x\x01", "😀", "😁", "\U0010ffff", "e" * 255, "😀" * 255, "%s", "?", "'\"\\`", "\\", "0", "null", "1:2:v",
)  # fmt: skip
TIMES = (0, 1, 2, 3, 4, limits.CONVERSION_TIME)
CLICK_TIMES = (*TIMES, limits.CLICK_TIME)
CLICK_IDS = (1, 2, 3, 4, 5, 6, limits.BIGINT)
CONV_IDS = (1, 2, 3, 4, 5, limits.INT)
SMALL = (0, 1, 2, limits.MEDIUMINT)
CPC = (0, 1, -1, 61_565, limits.CPC_UNITS, -limits.CPC_UNITS)
PAYOUT = (0, 1, -1, 4_881_041, limits.PAYOUT_UNITS, -limits.PAYOUT_UNITS, limits.PAYOUT_UNITS - 1)
REVISIONS = (0, 1, limits.INT)


class Draw:
    """Values where the two could differ, from a seed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.texts = self.chance.sample(TEXTS, 6)

    def one(self, values: Sequence[_Value]) -> _Value:
        return self.chance.choice(values)

    def some(self, values: Sequence[_Value]) -> list[_Value]:
        return self.chance.sample(values, self.chance.randrange(len(values) + 1))

    def key(self) -> JourneyKey:
        return JourneyKey(self.one((1, limits.MEDIUMINT)), self.one(SMALL[:2]), self.one(self.texts))

    def click(self, click_id: int) -> Click:
        scopes = [self.one(SMALL) for _ in range(5)]
        flags = [self.one((0, 0, 1)), self.one((0, 1)), self.one(REVISIONS)]
        user_id, campaign_id, visitor_id = self.key()
        time, cpc = self.one(CLICK_TIMES), Units(self.one(CPC))
        return Click._make([click_id, user_id, campaign_id, time, cpc, visitor_id, *scopes, *flags])

    def conversion(self, conv_id: int) -> Conversion:
        user_id, campaign_id, visitor_id = self.key()
        return Conversion(
            conv_id=conv_id,
            click_id=self.one(CLICK_IDS),
            user_id=user_id,
            campaign_id=campaign_id,
            click_time=self.one(TIMES),
            conv_time=self.one(TIMES),
            click_payout=Units(self.one(PAYOUT)),
            click_cpc=self.one((None, *map(Units, CPC))),
            visitor_id=visitor_id,
            transaction_id=self.one(self.texts),
            aff_network_id=self.one(SMALL),
            deleted=self.one((0, 1)),
            revised_at=self.one(REVISIONS),
        )

    def journey(self, conv_id: int) -> Journey:
        outcome = self.one(tuple(Outcome))
        touches = sorted(
            Touch(self.one(CLICK_TIMES), self.one(CLICK_IDS), *(self.one(SMALL) for _ in range(4)))
            for _ in range(self.one((0, 1, 26)) if outcome is Outcome.COUNTED else 0)
        )
        return Journey(
            conversion=self.conversion(conv_id),
            visitor_id=self.one(self.texts),
            outcome=outcome,
            click_unknown=self.one((False, True)),
            incomplete=self.one((False, True)),
            click_cpc=Units(self.one(CPC)),
            ppc_account_id=self.one(SMALL),
            aff_network_id=self.one(SMALL),
            touches=tuple(touches),
            version=self.one((1, 2, limits.INT)),
        )

    def needs(self) -> Needs:
        entered = [EnteredNeed(self.key(), self.one(TIMES), self.one(CLICK_TIMES)) for _ in range(self.one((0, 1, 9)))]
        histories = {
            HistoryNeed(self.key(), Moment(self.one(CLICK_TIMES), self.one((0, *CLICK_IDS))), self.one((1, 2, 51)))
            for _ in range(self.one((0, 1, 9)))
        }
        return Needs(
            conversions=frozenset(self.some(CONV_IDS)),
            conversions_of_clicks=frozenset(self.some(CLICK_IDS)),
            clicks=frozenset(self.some(CLICK_IDS)),
            entered=entered,
            histories=sorted(histories),
            with_credited=self.one((False, True)),
        )

    def credited(self) -> dict[int, int]:
        """Versions, by conversions whose credits stand in some hour."""
        return {conv_id: self.one((1, 2, limits.INT)) for conv_id in self.some(CONV_IDS)}

    def advance(self, epoch: int, known: Mapping[int, int]) -> Advance:
        """`known`: changes from outside by partition; sometimes all were forgotten."""
        offsets = {self.one(("clicks", "conversions")): self.one((0, limits.BIGINT))}
        drained_at = self.one((None, *TIMES))
        partition = self.one((0, 0, 0, 1))
        changes = self.one((0, known[partition], known[partition]))
        return Advance(partition, epoch, offsets, self.one(TIMES), self.one(TIMES), drained_at, changes)

    def changed(self, row: PartitionProgress) -> PartitionProgress:
        """As another hand leaves it."""
        texts = [f"key {text}" for text in self.some(self.texts)]
        newest, history_from = self.one(TIMES), self.one(TIMES)
        return replace(
            row,
            unsettled_keys=[*row.unsettled_keys, *texts],
            newest_conversion=max(row.newest_conversion, newest),
            history_from=max(row.history_from, history_from),
            outside_changes=row.outside_changes + 1,
        )


class Left(Exception):
    """The worker gives a transaction up."""


def leave(is_left: bool) -> None:  # noqa: FBT001
    if is_left:
        raise Left


async def answers(store: FactStore, others: ReplayStore, seed: int) -> list[object]:
    """What the store said to some transactions and reads, with other hands between; the seed alone decides all that."""
    draw, said = Draw(seed), list[object]()
    epochs = 0
    known = {0: 0, 1: 0}  # changes from outside, by partition
    for _ in range(12):
        if draw.chance.random() < 0.3:
            async with others.transaction() as hand:
                row = await hand.lock_partition(draw.one((0, 0, 1)))
                said.append(row)
                await hand.note_outside_change(draw.changed(row))
        if draw.chance.random() < 0.3:
            ids = {"clicks": draw.one(("a", "b"))}
            taken = await store.take_over(
                draw.one((0, 1)), owner=OWNER, topic_ids=ids, partition_count=2, history_from=draw.one(TIMES)
            )
            said.append(taken)
            epochs = max(epochs, taken.epoch)
            known[taken.partition] = taken.outside_changes
        plan = random.Random(draw.chance.random())
        try:
            async with store.transaction() as transaction:
                await transacted(transaction, draw, draw.advance(epochs, known), said)
                leave(plan.random() < 0.15)
        except (Fenced, Unavailable) as error:
            said.append("fenced" if isinstance(error, Fenced) else "in the way")
        except Left:
            said.append("left")
        said.append(await store.read(draw.needs()))
        said.append([*await store.progress()])
    return said


async def transacted(transaction: FactTransaction, draw: Draw, advance: Advance, said: list[object]) -> None:
    # Everything is drawn before anything can fail, so that both stores are asked the same afterwards.
    is_repeated = draw.one((False, True))
    claimed = [draw.click(click_id) for click_id in draw.some(CLICK_IDS)]
    chosen = draw.chance.random()
    needs = draw.needs()
    journeys = [draw.journey(conv_id) for conv_id in draw.some(CONV_IDS)]
    displaced = set(draw.some(CONV_IDS)) - {journey.conversion.conv_id for journey in journeys}
    new = set(draw.some([journey.conversion.conv_id for journey in journeys]))
    unsettled = [f"key {text}" for text in draw.some(draw.texts)]
    passed = await transaction.pass_fence(advance, after_failure=is_repeated)
    said.append([*passed.unsettled, passed.changed])
    stored = await transaction.claim_clicks(claimed)
    said.append(dict(stored))
    replacing = [each for each in claimed if each.click_id in stored and chosen < 0.7]
    if replacing:
        await transaction.replace_clicks(replacing)
    await transaction.write_journeys(journeys, displaced=displaced, new=new)
    said.append(await transaction.read(needs))
    if unsettled:
        await transaction.settle(advance.partition, unsettled)


@pytest.mark.parametrize("seed", range(25))
async def test_both_stores_answer_the_same(seed: int, database: Database, store_of: StoreFactory) -> None:
    memory, credited = MemoryDatabase(), Draw(-seed - 1).credited()
    memory.facts.credited_versions = lambda: credited
    await run(
        database,
        *(
            "INSERT INTO `202_stream_credited` (conv_id, user_id, date_hour, version)"
            f" VALUES ({conv_id}, 1, 0, {version})"
            for conv_id, version in credited.items()
        ),
    )
    wanted = await answers(MemoryStore(memory, OWNER), MemoryStore(memory, "another"), seed)
    writing = Writing(owner="another", writes_conversion_logs=True, clock=lambda: NOW)
    others = SqlReplayStore(database, writing, run_id=0)
    assert await answers(store_of(OWNER), others, seed) == wanted
    async with database.reading() as connection:
        logs = await connection.fetch("SELECT conv_id, click_id, transaction_id FROM `202_conversion_logs`")
        touches = await connection.fetch(
            "SELECT conv_id, position, click_id, click_time FROM `202_conversion_touchpoints` ORDER BY 1, 2"
        )
    assert {conv_id: (click_id, transaction or "") for conv_id, click_id, transaction in logs} == memory.logs
    assert list(touches) == memory.facts.touchpoints()
