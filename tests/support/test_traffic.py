"""The traffic is as mixed as it promises, and always the same for a seed."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import pytest

from tests.support import oracle_events
from tests.support.oracle import ExpectedRows, expected
from tests.support.traffic import BROKEN, NO_FAULTS, Rates, Sent, as_bytes, as_records, record_key, traffic

NOW = 1_795_000_000
EVENTS = 6000


@pytest.fixture(scope="module")
def sent() -> list[Sent]:
    return traffic(1, EVENTS, now=NOW)


@pytest.fixture(scope="module")
def rows(sent: list[Sent]) -> ExpectedRows:
    return expected(as_records(sent, NOW))


def _readable(sent: Sequence[Sent]) -> list[dict[str, Any]]:
    return [json.loads(record.value) for record in sent if record.kind not in BROKEN and record.value is not None]


def test_a_seed_decides_all() -> None:
    assert traffic(5, 500, now=NOW) == traffic(5, 500, now=NOW)
    assert traffic(5, 500, now=NOW) != traffic(6, 500, now=NOW)


@pytest.mark.parametrize("events", [1, 10, 777])
def test_as_many_records_as_asked_for_are_made(events: int) -> None:
    assert len(traffic(2, events, now=NOW)) == events


def test_every_kind_occurs(sent: list[Sent]) -> None:
    kinds = {record.kind for record in sent}
    usual = {
        "click", "bot", "campaign 0", "campaign later", "revised clicks", "conversion", "refund", "same transaction",
        "deleted", "undeleted", "revised conversions", "wrong key", "doubled", "doubled otherwise",
    }  # fmt: skip
    assert usual | set(BROKEN) == kinds


def test_all_that_is_broken_and_nothing_else_is_dead_lettered(sent: list[Sent], rows: ExpectedRows) -> None:
    broken = {index for index, record in enumerate(sent) if record.kind in BROKEN}
    assert {letter.at for letter in rows.dead_letters} == broken


@pytest.mark.parametrize("seed", range(5))
def test_winners_never_hang_on_a_digest(seed: int) -> None:
    assert expected(as_records(traffic(seed, 2000, now=NOW), NOW)).conflicts == frozenset()


def test_order_of_arrival_does_not_matter(sent: list[Sent], rows: ExpectedRows) -> None:
    backwards = expected(as_records(list(reversed(sent)), NOW))
    assert backwards.touchpoints == rows.touchpoints
    assert backwards.conversion_logs == rows.conversion_logs
    assert backwards.journeys == rows.journeys


def test_conversions_come_to_every_outcome(rows: ExpectedRows) -> None:
    outcomes = Counter(row.outcome for row in rows.journeys)
    assert min(outcomes["counted"], outcomes["deleted"], outcomes["duplicate"]) > 10
    assert sum(row.click_unknown for row in rows.journeys) > 10


def test_journeys_reach_the_cap_and_go_one_beyond_it(rows: ExpectedRows) -> None:
    lengths = Counter(Counter(touchpoint.conv_id for touchpoint in rows.touchpoints).values())
    assert lengths[1] > 10
    assert lengths[25] > 10
    assert lengths[26] > 0
    assert max(lengths) == 26


def test_both_identities_occur(rows: ExpectedRows) -> None:
    with_visitor = without = by_click_alone = 0
    for conversion in rows.conversions.values():
        click = rows.clicks.get(conversion.click_id)
        visitor = click.visitor_id if click else ""
        with_visitor += bool(visitor or conversion.visitor_id)
        without += not (visitor or conversion.visitor_id)
        by_click_alone += bool(visitor and not conversion.visitor_id)
    assert min(with_visitor, without, by_click_alone) > 50


def test_conversions_come_before_their_clicks_and_from_other_campaigns(sent: list[Sent], rows: ExpectedRows) -> None:
    seen: set[int] = set()
    early = 0
    for fields in _readable(sent):
        if "conv_id" in fields:
            early += fields["click_id"] not in seen and fields["click_id"] in rows.clicks
        else:
            seen.add(fields["click_id"])
    assert early > 10
    known = [conversion for conversion in rows.conversions.values() if conversion.click_id in rows.clicks]
    assert sum(rows.clicks[found.click_id].campaign_id != found.campaign_id for found in known) > 10


def test_one_transaction_is_reported_under_two_ids_and_campaigns(rows: ExpectedRows) -> None:
    campaigns = defaultdict(list)
    for conversion in rows.conversions.values():
        if conversion.transaction_id:
            campaigns[conversion.click_id, conversion.transaction_id].append(conversion.campaign_id)
    assert sum(len(found) > 1 for found in campaigns.values()) > 10
    assert sum(len(set(found)) > 1 for found in campaigns.values()) > 5


def test_clicks_share_times_and_one_key_has_a_large_part(rows: ExpectedRows) -> None:
    clicks = rows.clicks.values()
    times = Counter((click.user_id, click.campaign_id, click.click_time) for click in clicks)
    assert sum(count > 1 for count in times.values()) > 10
    by_campaign = Counter((click.user_id, click.campaign_id) for click in clicks)
    assert by_campaign.most_common(1)[0][1] > 0.25 * len(clicks)


def test_keys_fit_the_content_but_for_the_wrong_ones(sent: list[Sent]) -> None:
    for record in sent:
        if record.kind in BROKEN or record.kind.startswith("doubled") or record.value is None:
            continue
        assert (record.key == record_key(json.loads(record.value))) == (record.kind != "wrong key")


def test_traffic_without_faults_is_taken_whole() -> None:
    plain = traffic(3, 1000, now=NOW, rates=NO_FAULTS)
    assert {record.kind for record in plain} == {"click", "bot", "conversion"}
    found = expected(as_records(plain, NOW))
    assert len(found.clicks) + len(found.conversions) == 1000


def test_rekeyed_ids_come_only_when_asked_for(sent: list[Sent]) -> None:
    assert not any(record.kind.startswith("rekeyed") for record in sent)
    moved = traffic(4, 1000, now=NOW, rates=Rates(rekeyed=0.1, late=0, broken=0))
    assert {"rekeyed click", "rekeyed conversion"} < {record.kind for record in moved}
    assert "rekeyed" in {letter.why for letter in expected(as_records(moved, NOW)).dead_letters}


def test_a_broken_record_is_broken_for_the_oracle_too() -> None:
    click = {"click_id": 7, "user_id": 1, "campaign_id": 2, "click_time": NOW, "click_cpc": 1}
    conversion = click | {"conv_id": 1, "conv_time": NOW, "click_payout": 1}
    oracle_events.read_click(as_bytes(click), NOW)
    oracle_events.read_conversion(as_bytes(conversion), NOW)
    for kind, spoil in BROKEN.items():
        with pytest.raises(oracle_events.Unusable):
            oracle_events.read_click(spoil(click, NOW), NOW)
        with pytest.raises(oracle_events.Unusable):
            assert oracle_events.read_conversion(spoil(conversion, NOW), NOW) is None, kind
