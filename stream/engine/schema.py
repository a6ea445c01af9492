"""Faust would decode every message; ours carry fetched records or a chunk, ready made."""

from typing import Any

from faust.serializers.schemas import Schema
from faust.types import AppT, Message


class WholeChunkSchema(Schema[Any, Any]):
    """The message's value is the event's value."""

    def compile(self, app: AppT, **options: Any) -> Any:
        create_event = app.create_event

        async def decode(message: Message, *, propagate: bool = False) -> Any:
            return create_event(None, message.value, None, message)

        return decode
