"""A digest of results: equal where two installations have made the same of the same log.

Nothing goes in that an installation gives by itself: no running numbers, times of writing, versions or revisions, and
models by their slugs.
"""

import hashlib
from typing import NamedTuple

import orjson


class DayDigest(NamedTuple):
    """Of one account and one day, UTC."""

    day: int  # its first second
    user_id: int
    digest: str  # sha256, hexadecimal
    touchpoints: int
    snapshots: int
    credits: int


class DayDigesting:
    """Takes the rows of a day in their order: touchpoints, then snapshots, then credits, each kind ascending."""

    def __init__(self, day: int, user_id: int) -> None:
        self._day = day
        self._user_id = user_id
        self._hash = hashlib.sha256()
        self._counts = {"touchpoint": 0, "snapshot": 0, "credit": 0}

    def take(self, kind: str, *values: int | str) -> None:
        """A line of JSON: the kind of row, and its values behind it."""
        self._hash.update(orjson.dumps([kind, *values], option=orjson.OPT_APPEND_NEWLINE))
        self._counts[kind] += 1

    def done(self) -> DayDigest | None:
        """None for a day without rows, which is one that nobody needs to know of."""
        if not any(self._counts.values()):
            return None
        return DayDigest(self._day, self._user_id, self._hash.hexdigest(), *self._counts.values())


class AllDigesting:
    """Over the digests of all days: by account, and by day within."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def take(self, of_day: DayDigest) -> None:
        line = [of_day.user_id, of_day.day, of_day.digest]
        self._hash.update(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def done(self) -> str:
        return self._hash.hexdigest()
