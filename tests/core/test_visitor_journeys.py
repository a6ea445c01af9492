"""Journeys told one by one: how a postback finds its visitor, and how what comes late or changes mends them."""

from stream.core.facts import Outcome
from stream.core.keys import partition_of
from tests.support.builders import click, conversion
from tests.support.cluster import Cluster

HERE, ELSEWHERE = (
    11,
    next(campaign for campaign in range(12, 99) if partition_of(1, campaign, 2) != partition_of(1, 11, 2)),
)


def touches(cluster: Cluster, conv_id: int = 1) -> list[int]:
    return [touch.click_id for touch in cluster.facts.journeys[conv_id].touches]


def lacks_its_click(cluster: Cluster) -> bool:
    return cluster.facts.journeys[1].click_unknown


def test_a_postback_without_a_visitor_finds_it_by_its_click() -> None:
    cluster = Cluster(1)
    cluster.deliver(
        [click(1, visitor_id="ann"), click(2, visitor_id="bob"), click(3, visitor_id="ann", click_time=1500)]
    )
    cluster.deliver([conversion(1, click_id=3)])
    assert touches(cluster) == [1, 3]
    assert cluster.facts.journeys[1].visitor_id == "ann"


def test_without_any_visitor_all_clicks_of_the_campaign_are_candidates() -> None:
    cluster = Cluster(1)
    cluster.deliver([click(1), click(2, click_bot=1), click(3, visitor_id="ann"), conversion(1, click_id=2)])
    assert touches(cluster) == [1, 2]


def test_a_conversion_before_its_click_is_mended_when_the_click_comes() -> None:
    cluster = Cluster(1)
    cluster.deliver([click(1, visitor_id="ann", click_time=900)])
    cluster.deliver([conversion(1, click_id=2)])
    assert touches(cluster) == [2]
    assert lacks_its_click(cluster)
    cluster.deliver([click(2, visitor_id="ann")])
    assert touches(cluster) == [1, 2]
    assert not lacks_its_click(cluster)
    assert cluster.facts.journeys[1].version == 2


def test_so_is_one_whose_click_lies_in_another_campaign_and_partition() -> None:
    cluster = Cluster(2)
    cluster.deliver([click(1, visitor_id="ann", click_time=900), conversion(1, click_id=2)])
    cluster.deliver([click(2, campaign_id=ELSEWHERE, visitor_id="ann")])
    assert touches(cluster) == [1, 2]


def test_a_click_that_gets_its_campaign_later_joins_the_campaigns_journeys() -> None:
    cluster = Cluster(2)
    cluster.deliver([click(1, campaign_id=0, visitor_id="ann", click_time=900)])
    cluster.deliver([click(2, visitor_id="ann"), conversion(1, click_id=2)])
    assert touches(cluster) == [2]
    cluster.deliver([click(1, visitor_id="ann", click_time=900)])
    assert touches(cluster) == [1, 2]


def test_a_revised_click_restates_all_that_it_touched() -> None:
    cluster = Cluster(1)
    cluster.deliver([click(1, visitor_id="ann", click_time=900), click(2, visitor_id="ann")])
    cluster.deliver([conversion(1, click_id=2), conversion(2, click_id=2, conv_time=3000)])
    assert touches(cluster, 1) == touches(cluster, 2) == [1, 2]
    cluster.deliver([click(1, visitor_id="ann", click_time=900, click_bot=1, revised_at=1)])
    assert touches(cluster, 1) == touches(cluster, 2) == [2]
    cluster.deliver([click(1, visitor_id="bob", click_time=900, revised_at=2)])
    assert touches(cluster, 1) == [2]
    cluster.deliver([click(1, visitor_id="ann", click_time=1200, revised_at=3)])  # after the click that converted
    assert touches(cluster, 1) == [2]
    cluster.deliver([click(1, visitor_id="ann", click_time=950, revised_at=4)])
    assert [touch.click_time for touch in cluster.facts.journeys[1].touches] == [950, 1000]


def test_a_revised_price_reaches_the_journeys_that_the_click_converted() -> None:
    cluster = Cluster(1)
    cluster.deliver([click(1), conversion(1), conversion(2, click_cpc=7)])
    cluster.deliver([click(1, click_cpc=300, revised_at=1)])
    assert (cluster.facts.journeys[1].click_cpc, cluster.facts.journeys[2].click_cpc) == (300, 7)


def test_a_visitors_journey_holds_25_touches_with_the_converting_click_always_among_them() -> None:
    cluster = Cluster(1)
    cluster.deliver([click(number, visitor_id="ann", click_time=number) for number in range(1, 31)])
    cluster.deliver([conversion(1, click_id=30), conversion(2, click_id=99, visitor_id="ann", click_time=500)])
    assert touches(cluster, 1) == list(range(6, 31))
    assert touches(cluster, 2) == [*range(7, 31), 99]


def test_a_campaigns_journey_gets_a_26th_touch_for_its_converting_click() -> None:
    cluster = Cluster(1)
    cluster.deliver([click(number, click_time=number) for number in range(1, 31)])
    cluster.deliver([conversion(1, click_id=1)])
    assert touches(cluster) == [1, *range(6, 31)]


def test_two_reports_of_one_order_count_once_also_across_partitions() -> None:
    cluster = Cluster(2)
    cluster.deliver([click(1), conversion(2, transaction_id="o", conv_time=2000)])
    cluster.deliver([conversion(1, transaction_id="o", conv_time=1900, campaign_id=ELSEWHERE)])
    outcomes = {conv_id: journey.outcome for conv_id, journey in cluster.facts.journeys.items()}
    assert outcomes == {1: Outcome.COUNTED, 2: Outcome.DUPLICATE}
    cluster.deliver([conversion(1, transaction_id="o", conv_time=1900, campaign_id=ELSEWHERE, deleted=1, revised_at=1)])
    outcomes = {conv_id: journey.outcome for conv_id, journey in cluster.facts.journeys.items()}
    assert outcomes == {1: Outcome.DELETED, 2: Outcome.COUNTED}
    assert touches(cluster, 2) == [1]
