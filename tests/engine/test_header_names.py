"""Records whose header names are no text are read like all others; aiokafka alone stops at them."""

from collections.abc import Sequence
from typing import Any

import pytest
from aiokafka.consumer import fetcher
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from aiokafka.structs import TopicPartition

from stream.engine.header_names import LenientRecords, read_any_header_name

PLACE = TopicPartition("clicks", 0)
ZSTD = 4


class Name(str):
    """A header name as a client in another language may send it."""

    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return b"caf\xe9"


def batch(first_offset: int, values: Sequence[bytes], name: str, *, compression: int = 0) -> bytes:
    """One header a record; the value of each header holds the name's bytes too."""
    builder = _DefaultRecordBatchBuilderPy(2, compression, 0, -1, -1, -1, 1 << 20)
    for index, value in enumerate(values):
        builder.append(index, 1_000, b"key", value, [(name, b"caf\xe9"), ("plain", None)])
    content = builder.build()
    content[:8] = first_offset.to_bytes(8, "big")  # as the broker does; no part of the checksum
    return bytes(content)


def read(content: bytes) -> list[Any]:
    records: Any = LenientRecords(content)
    return list(PartitionRecords(PLACE, records, [], 0, None, None, True, READ_COMMITTED))  # noqa: FBT003


@pytest.mark.parametrize("compression", [0, ZSTD])
def test_a_name_that_is_no_text_is_escaped_and_all_else_is_as_it_was(compression: int) -> None:
    content = (
        batch(0, [b"a", b"b"], "plain")
        + batch(2, [b"c", b"caf\xe9"], Name("x"), compression=compression)
        + batch(4, [b"d"], "caf\u00e9", compression=compression)
    )
    found = read(content)
    assert [(each.offset, each.key, each.value) for each in found] == [
        (0, b"key", b"a"),
        (1, b"key", b"b"),
        (2, b"key", b"c"),
        (3, b"key", b"caf\xe9"),
        (4, b"key", b"d"),
    ]
    assert [each.headers[0] for each in found] == [
        *[("plain", b"caf\xe9")] * 2,
        *[("caf\\xe9", b"caf\xe9")] * 2,
        ("caf\u00e9", b"caf\xe9"),
    ]
    assert all(each.headers[1] == ("plain", None) for each in found)
    assert all(type(each.value) is bytes and type(each.headers[0][1]) is bytes for each in found)


def test_fetches_of_this_process_are_read_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetcher, "MemoryRecords", fetcher.MemoryRecords)  # put back at the end
    read_any_header_name()
    assert fetcher.MemoryRecords is LenientRecords
