"""Accounts that SQL does not know yet, as before the first worker: does the log name them?"""

from collections.abc import Collection
from dataclasses import replace

import click

from stream.agents.reading import EventReader, Misplaced
from stream.agents.topic_names import topic_names
from stream.commands.log_access import broker_errors, reading_log
from stream.commands.replay_plan import Wish, make_plan
from stream.config import Settings
from stream.core.errors import InvalidEvent, Unavailable
from stream.engine.chunk import Arrival
from stream.replay.log_range import LogRange, read_range


async def check_users_of_log(settings: Settings, wish: Wish, unknown: Collection[int]) -> None:
    """Raises click.UsageError for accounts of which there is no event in the log. Stops reading once all are found."""
    left = set(unknown)
    if wish.is_journeys_only:
        raise click.UsageError(f"{_told(left)}; the log is asked without --journeys-only")
    try:
        # Of which time its events are is for the replay to tell: the account exists.
        plan = await make_plan(settings, replace(wish, start=0), topic_names(settings))
        for part in plan.ranges:
            if left and part.records:
                await _find(settings, part, left)
    except Unavailable as error:
        raise click.UsageError(f"{_told(left)}; and the log cannot be asked: {error}") from error
    if left:
        raise click.UsageError(f"{_told(left)}, nor does the log")


async def _find(settings: Settings, part: LogRange, left: set[int]) -> None:
    """Takes from `left` whom it finds."""
    names = topic_names(settings)
    read = EventReader(clicks=names.clicks, conversions=names.conversions, partitions=names.partitions)
    async with reading_log(settings) as consumer:
        with broker_errors(settings):
            async for chunk in read_range(consumer, part, read):
                left -= {user for arrival in chunk.arrivals if (user := _user_of(arrival)) is not None}
                if not left:
                    return


def _user_of(arrival: Arrival) -> int | None:
    content = arrival.content
    if isinstance(content, InvalidEvent):
        return None
    event = content.event if isinstance(content, Misplaced) else content
    user_id: int = event.user_id
    return user_id


def _told(unknown: Collection[int]) -> str:
    ids = ", ".join(map(str, sorted(unknown)))
    return f"unknown user {ids}: neither users, clicks, conversions nor models name it"
