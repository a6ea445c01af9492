"""May a partition be worked on? What Kafka and the database say of it, case by case."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.core.errors import StartRefused
from stream.core.progress import PartitionProgress
from stream.engine.start import LogPlace, records_removed, start_refusal
from tests.engine.arrivals import A, B

NEVER_TAKEN = PartitionProgress(
    partition=2,
    epoch=1,
    owner="",
    next_offsets={},
    partition_count=0,
    topic_ids={},
    watermark=0,
    newest_conversion=0,
    history_from=0,
    unsettled_keys=(),
)
ROW = replace(
    NEVER_TAKEN, epoch=4, owner="w", next_offsets={A: 50, B: 20}, partition_count=4, topic_ids={A: "a1", B: "b1"}
)
LOG = LogPlace(
    partitions=4,
    topic_ids={A: "a1", B: "b1"},
    committed={A: 50, B: 20},
    begins={A: 0, B: 0},
    ends={A: 90, B: 20},
)
UNREAD = {A: None, B: None}

FITS = {
    "where it stopped": (ROW, LOG),
    "Kafka behind the database, whose last chunk had not committed its offsets": (
        ROW,
        replace(LOG, committed={A: 40, B: 20}),
    ),
    "a new installation": (NEVER_TAKEN, replace(LOG, committed=UNREAD)),
    "a new installation on a log whose first records are gone": (
        NEVER_TAKEN,
        replace(LOG, committed=UNREAD, begins={A: 30, B: 20}),
    ),
    "offsets committed as 0": (NEVER_TAKEN, replace(LOG, committed={A: 0, B: 0})),
    "offsets forgotten by Kafka": (ROW, replace(LOG, committed=UNREAD)),
    "offsets forgotten, and the log cut off behind them": (ROW, replace(LOG, committed=UNREAD, begins={A: 80, B: 20})),
    "one topic never read": (replace(ROW, next_offsets={A: 50}), replace(LOG, committed={A: 50, B: None})),
    "the log cut off exactly where it goes on": (ROW, replace(LOG, begins={A: 50, B: 20})),
    "read to the end": (ROW, replace(LOG, ends={A: 50, B: 20})),
    "topic ids never noted": (replace(ROW, topic_ids={}), LOG),
    "a broker that gives no topic ids": (ROW, replace(LOG, topic_ids={A: "", B: ""})),
}

REFUSED = {
    "a database that knows nothing, and offsets": (NEVER_TAKEN, LOG, "the database knows nothing of this partition"),
    "more partitions": (ROW, replace(LOG, partitions=8), "the topics have 8 partitions now and had 4"),
    "a topic created anew": (ROW, replace(LOG, topic_ids={A: "a1", B: "b2"}), '"conversions" was created anew'),
    "an older database": (
        replace(ROW, next_offsets={A: 49, B: 20}),
        LOG,
        '"clicks" up to offset 49, Kafka up to 50: the database is older',
    ),
    "an older database, without the topic": (
        replace(ROW, next_offsets={A: 50}),
        LOG,
        '"conversions" up to offset 0, Kafka up to 20',
    ),
    "records removed": (
        ROW,
        replace(LOG, begins={A: 51, B: 0}),
        'records of "clicks" partition 2 from offset 50 to 51 were removed before they were processed',
    ),
    "a log that ends too soon": (
        ROW,
        replace(LOG, ends={A: 49, B: 20}),
        '"clicks" ends at offset 49, but was read up to 50',
    ),
}


@pytest.mark.parametrize("case", FITS)
def test_it_goes_on(case: str) -> None:
    assert start_refusal(*FITS[case]) is None


@pytest.mark.parametrize("case", REFUSED)
def test_it_refuses_with_the_reason_and_the_command_that_mends_it(case: str) -> None:
    row, log, reason = REFUSED[case]
    refusal = start_refusal(row, log)
    assert isinstance(refusal, StartRefused)
    assert reason in str(refusal)
    assert "partition 2" in str(refusal)
    assert "progress reset --to-log-start" in refusal.hint


def test_removed_records_are_told_with_their_offsets_and_the_command() -> None:
    refusal = records_removed(A, 3, 10, 40)
    assert 'records of "clicks" partition 3 from offset 10 to 40' in str(refusal)
    assert "progress reset --to-log-start" in refusal.hint


offsets = st.integers(0, 5)
both = st.fixed_dictionaries({A: offsets, B: offsets})
rows = st.builds(
    replace,
    st.just(ROW),
    next_offsets=both | st.fixed_dictionaries({A: offsets}) | st.just({}),
    topic_ids=st.sampled_from([{}, {A: "a1"}, {A: "a1", B: "b1"}]),
)
logs = st.builds(
    replace,
    st.just(LOG),
    committed=st.fixed_dictionaries({A: st.none() | offsets, B: st.none() | offsets}),
    begins=both,
    ends=both,
)


@given(rows | st.just(NEVER_TAKEN), logs)
def test_no_committed_offset_is_never_a_refusal(row: PartitionProgress, log: LogPlace) -> None:
    assert start_refusal(row, replace(log, committed=UNREAD)) is None


@given(rows, logs)
def test_what_is_let_in_can_go_on_exactly_at_its_committed_offset(row: PartitionProgress, log: LogPlace) -> None:
    if start_refusal(row, log) is None:
        for topic, committed in log.committed.items():
            if committed is not None:
                assert log.begins[topic] <= committed <= log.ends[topic]
                assert committed <= row.next_offsets.get(topic, 0)


@given(rows, logs)
def test_a_refusal_has_a_reason_among_the_three(row: PartitionProgress, log: LogPlace) -> None:
    read = {topic: offset for topic, offset in log.committed.items() if offset is not None}
    is_wrong = any(
        offset > row.next_offsets.get(topic, 0) or not log.begins[topic] <= offset <= log.ends[topic]
        for topic, offset in read.items()
    )
    assert (start_refusal(row, log) is not None) == is_wrong
