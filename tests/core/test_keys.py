"""The partition of an event is the one that Kafka's own partitioner gives to its record key."""

from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from stream.core.keys import JourneyKey, journey_key_of_conversion, partition_of, record_key
from tests.support.builders import click, conversion

ids = st.integers(0, 16_777_215)


@given(ids, ids, st.integers(1, 64))
def test_partitions_are_those_of_kafkas_default_partitioner(user_id: int, campaign_id: int, partitions: int) -> None:
    everywhere = list(range(partitions))
    wanted = DefaultPartitioner()(record_key(user_id, campaign_id), everywhere, everywhere)
    assert partition_of(user_id, campaign_id, partitions) == wanted


def test_the_record_key_is_clear_text() -> None:
    assert record_key(7, 104) == b"7:104"


def test_the_visitor_of_the_click_comes_before_the_conversions_own() -> None:
    named = conversion(visitor_id="own")
    assert journey_key_of_conversion(named, click(visitor_id="clicks")).visitor_id == "clicks"
    assert journey_key_of_conversion(named, click(visitor_id="")).visitor_id == "own"
    assert journey_key_of_conversion(named, None) == JourneyKey(1, 11, "own")
    assert not journey_key_of_conversion(conversion(), None).names_visitor
