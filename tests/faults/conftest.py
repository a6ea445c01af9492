"""Installations of a test's own, on the real parts."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.installation import Installation

Install = Callable[..., Installation]


@pytest.fixture
def install(kafka: str, tmp_path: Path) -> Iterator[Install]:
    """`install(database_url, partitions=1, chunk_records=50)`: topics and schema are there, nothing was sent."""
    made: list[Installation] = []

    def make(database_url: str, *, partitions: int = 3, **settings: str | int) -> Installation:
        installation = Installation(kafka, database_url, tmp_path, partitions=partitions, **settings)
        installation.prepare()
        made.append(installation)
        return installation

    yield make
    for installation in made:
        installation.remove()
