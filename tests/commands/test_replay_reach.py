"""Does the log, together with what SQL has of it, reach back far enough for a range?"""

import pytest

from stream.commands.replay_plan import Plan, gaps
from stream.core.progress import PartitionProgress

BEGINS_AT = 1_700_000_000
PLAN = Plan([], {0: BEGINS_AT}, {0: {"clicks": 20, "conversions": 7}})


def row(*, epoch: int = 1, partitions: int = 1, **next_offsets: int) -> PartitionProgress:
    return PartitionProgress(0, epoch, "w", next_offsets, partitions, {}, 0, 0, 0, ())


@pytest.mark.parametrize(
    ("of_partition", "is_gap"),
    [
        (row(clicks=20, conversions=7), False),
        (row(clicks=19, conversions=7), True),
        (row(clicks=20, conversions=6), True),
        (row(), True),  # taken, and nothing of it was stored before it was gone
        (row(epoch=2, partitions=0), False),  # reset, which notes itself what was lost
        (row(epoch=0, partitions=0), True),
    ],
)
def test_what_the_log_lost_is_a_gap_unless_it_was_stored(of_partition: PartitionProgress, *, is_gap: bool) -> None:
    assert gaps(PLAN, {0: of_partition}) == ({0: BEGINS_AT} if is_gap else {})


def test_of_a_partition_that_sql_does_not_know_all_that_was_removed_is_a_gap() -> None:
    assert gaps(PLAN, {}) == {0: BEGINS_AT}
