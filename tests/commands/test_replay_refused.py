"""What the database refuses of a replay: named by each run, tried again alone, and never passed over."""

import pytest

from stream.commands import replay_refused
from stream.core.errors import StreamError
from tests.commands.replay_desk import Desk, events


async def test_a_refused_conversion_is_named_by_each_run_and_tried_again_alone(desk: Desk) -> None:
    """Also by one that goes on behind it; in the end it is written, and the others are not written once more."""
    desk.log.append(*events(1, 20))
    await desk.round(is_facts=True)
    wanted = await desk.touches()
    await desk.purge(*range(1, 21))
    await desk.refuse("202_conversion_touchpoints", "conv_id", 5, 13)
    await desk.broken_off(at=6, is_facts=False, batch_size=2)
    assert desk.telling.conversions == [13], "in the order of visitors, as texts"
    await desk.round(is_facts=False, batch_size=2)
    assert desk.telling.conversions == [13, 13, 5]
    assert sorted(wanted.keys() - (await desk.touches()).keys()) == [5, 13]
    await desk.take_all()
    desk.sender.sent.clear()
    await desk.both()
    assert desk.sender.sent == {5, 13}
    assert await desk.touches() == wanted
    assert not {"refused_conversions", "refused_records"} & (await desk.place()).keys()


async def test_a_refused_record_is_named_by_each_run_and_read_again_alone(desk: Desk) -> None:
    desk.log.append(*events(1, 20))
    await desk.refuse("202_stream_clicks", "click_id", 7)
    await desk.refuse("202_stream_journeys", "conv_id", 12)
    for runs in (1, 2):
        await desk.both()
        assert (desk.telling.clicks, desk.telling.conversions) == ([(7, "clicks", 6)] * runs, [12] * runs)
    assert len(await desk.touches()) == 19
    await desk.take_all()
    desk.log.starts.clear()
    desk.sender.sent.clear()
    await desk.both()
    assert desk.log.starts == [{"clicks": 6}, {"conversions": 11}]
    assert desk.sender.sent == {7, 12}
    assert await desk.touches() == dict.fromkeys(range(1, 21), 1)
    await desk.both()
    assert len(desk.log.starts) == 2, "nothing is left to try"


async def test_a_database_that_refuses_all_ends_the_run_and_nothing_is_passed_over(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_refused, "MOST_REFUSED", 5)
    desk.log.append(*events(1, 20))
    for is_facts, relation in ((True, "202_stream_journeys"), (False, "202_conversion_touchpoints")):
        await desk.purge(*range(1, 21))
        await desk.refuse(relation, "conv_id", *range(1, 21))
        desk.telling.conversions.clear()
        with pytest.raises(StreamError, match="refuses more than 5 of its records"):
            await desk.round(is_facts=is_facts, batch_size=4)
        assert len(desk.telling.conversions) == 6
        await desk.take_all()
        await desk.round(is_facts=is_facts, batch_size=4)
    assert len(await desk.touches()) == 20
