"""Times as people and programs write them on a command line."""

import math
import re
from datetime import UTC, datetime

import click

_LATEST = 2**32 - 1  # of the columns


def parse_time(text: str) -> int:
    """Unix seconds of "1790000000", or of an ISO 8601 date or time; without a zone it is UTC. Parts of a second go.

    Raises click.BadParameter.
    """
    given = text.strip()
    if re.fullmatch("[0-9]+", given, re.ASCII):
        seconds = int(given) if len(given) <= 10 else _LATEST + 1
    else:
        try:
            moment = datetime.fromisoformat(given)
        except ValueError:
            raise click.BadParameter(
                f'"{text:.60}" is neither unix seconds nor an ISO 8601 time like 2026-09-22T17:43:20Z'
            ) from None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = math.floor((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
    if not 0 <= seconds <= _LATEST:
        raise click.BadParameter(f'"{text:.60}" lies outside 1970-01-01 to 2106-02-07')
    return seconds


class TimeType(click.ParamType):
    """`parse_time` as the type of an option."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_time(str(value))
        except click.BadParameter as error:
            raise click.BadParameter(error.message, ctx, param) from None
