"""What every contestant is told, and the one thing it has to tell: when it had its first record."""

import sys
import time
from typing import NamedTuple

FIRST = "FIRST"


class Job(NamedTuple):
    """The arguments of a contestant, in their order."""

    kafka: str  # host:port
    clicks: str  # names of topics with the same count of partitions
    conversions: str
    partitions: int
    group: str  # a consumer group of its own
    folder: str  # an empty folder of its own

    def arguments(self) -> list[str]:
        return [str(value) for value in self]


def read_job() -> Job:
    kafka, clicks, conversions, partitions, group, folder = sys.argv[1:]
    return Job(kafka, clicks, conversions, int(partitions), group, folder)


class FirstRecord:
    """Tells, once, on which second of the machine's monotonic clock and at which CPU second of ours work began."""

    def __init__(self) -> None:
        self.is_told = False

    def tell(self) -> None:
        self.is_told = True
        # On a line of its own, whatever somebody has written before.
        print(f"\n{FIRST}", time.monotonic(), time.process_time(), flush=True)
