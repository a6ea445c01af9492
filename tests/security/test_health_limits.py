"""The one HTTP server of a worker takes in no body, no long header, no endless request, and gives no text back."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry

from stream import health
from stream.config import Settings
from stream.health import HealthServer
from tests.security.hostile import TEXTS
from tests.support.processes import free_port


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr(health, "LONGEST_CONNECTION_S", 1.0)
    number = free_port()
    server = HealthServer(
        "127.0.0.1", number, readiness=lambda: {"ready": True}, registry=CollectorRegistry(), refresh=lambda: None
    )
    await server.start()
    yield number
    await server.stop()


async def answer(port: int, sent: bytes) -> bytes:
    """All that comes until the server hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    try:
        async with asyncio.timeout(20):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


def test_it_listens_to_this_machine_alone_unless_told_otherwise() -> None:
    assert Settings().health.host == "127.0.0.1"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /readyz HTTP/1.1\r\nHost: h\r\nX: " + b"a" * 20_000 + b"\r\n\r\n", b"400"),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", b"400"),
        (b"GET /readyz HTTP/1.1\r\nHost: h\r\n" + b"X: 1\r\n" * 5000 + b"\r\n", b"400"),
        (b"POST /readyz HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999\r\n\r\nabc", b"405"),
        (b"\x16\x03\x01\x02\x00 no HTTP at all\r\n\r\n", b"400"),
        (b"GET /../../etc/passwd HTTP/1.1\r\nHost: h\r\n\r\n", b"404"),
    ],
    ids=["header", "path", "headers", "body", "no-http", "folder"],
)
async def test_what_is_too_much_is_refused(port: int, sent: bytes, status: bytes) -> None:
    told = await answer(port, sent)
    assert told.split(b" ", 2)[1] == status


async def test_requests_that_never_end_are_hung_up_on(port: int) -> None:
    unfinished = [b"", b"GET /readyz HTTP/1.1\r\nHost:", b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n"]
    for told in await asyncio.gather(*(answer(port, sent) for sent in unfinished)):
        assert b" 200 " not in told


async def test_no_text_of_a_request_comes_back(port: int) -> None:
    for number, text in enumerate(TEXTS):
        mark = f"zq{number}"
        query = (mark + text).encode().hex().upper()
        path = "".join(f"%{query[at : at + 2]}" for at in range(0, len(query), 2))
        head = f"GET /readyz?user={path} HTTP/1.1\r\nHost: {mark}\r\nCookie: {mark}\r\nConnection: close\r\n\r\n"
        told = await answer(port, head.encode())
        assert told.startswith(b"HTTP/1.1 200 ")
        assert mark.encode() not in told
