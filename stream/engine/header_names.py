"""Header names that are not UTF-8: other clients write them, and aiokafka stops reading at the first of them.

Headers decide nothing about an event, so what cannot be read of a name is written as an escape. aiokafka decodes a
batch as before; only a batch in which that fails is decoded once more, slowly.
"""

from collections.abc import Iterator
from typing import Any, SupportsIndex

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

_LENGTH_AT = 8  # in four bytes, behind the base offset of a batch; it counts what comes after it
_REST_AT = 12


def read_any_header_name() -> None:
    """From here on, every consumer of this process does."""
    fetcher.MemoryRecords = LenientRecords


class LenientRecords:
    """The batches of one fetched partition; in the place of aiokafka's MemoryRecords."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._records = MemoryRecords(content)
        self._count = 0

    def size_in_bytes(self) -> Any:
        return self._records.size_in_bytes()

    def has_next(self) -> Any:
        return self._records.has_next()

    def next_batch(self) -> Any:
        batch: Any = self._records.next_batch()
        self._count += 1
        return None if batch is None else _Batch(batch, self._content, self._count - 1)


class _Batch:
    """A batch of aiokafka's, with the bytes that it comes from."""

    def __init__(self, batch: Any, content: bytes, index: int) -> None:
        self._batch = batch
        self._content = content
        self._index = index

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        try:
            return iter(list(self._batch))
        except UnicodeDecodeError:
            return iter(_SlowBatch(_batch_bytes(self._content, self._index)))


def _batch_bytes(content: bytes, index: int) -> bytearray:
    start = 0
    while True:
        length = int.from_bytes(content[start + _LENGTH_AT : start + _REST_AT], "big")
        end = start + _REST_AT + length
        if index == 0:
            return bytearray(content[start:end])
        start, index = end, index - 1


class _SlowBatch(_DefaultRecordBatchPy):
    """aiokafka's decoding in Python, which takes whatever its buffer gives it for a name."""

    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        self._buffer: bytearray = _NamesOfAnyBytes(self._buffer)


class _NamesOfAnyBytes(bytearray):
    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        found = super().__getitem__(index)
        return _NamesOfAnyBytes(found) if isinstance(index, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return super().decode(encoding, "backslashreplace")
