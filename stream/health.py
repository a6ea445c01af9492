"""How is the worker? /healthz, /readyz and /metrics, for the machine's own supervisor and for Prometheus."""

import asyncio
import contextlib
import errno
import logging
from collections.abc import Callable, Mapping

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

log = logging.getLogger(__name__)

_PORTS_TO_TRY = 100
LONGEST_CONNECTION_S = 30.0  # a page takes milliseconds; whoever sends nothing, or a byte now and then, holds a file


class HealthServer:
    """Listens where it is told to, or on the next free port, and says where that is."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        readiness: Callable[[], Mapping[str, object]],
        registry: CollectorRegistry,
        refresh: Callable[[], None],
    ) -> None:
        self._host = host
        self._port = port
        self._readiness = readiness
        self._registry = registry
        self._refresh = refresh
        self._runner: web.AppRunner | None = None
        self._hanging_up: asyncio.Task[None] | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        self._hanging_up = asyncio.create_task(self._hang_up())
        for port in range(self._port, min(self._port + _PORTS_TO_TRY, 65536)):
            try:
                await web.TCPSite(self._runner, self._host, port).start()
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                log.info("health at http://%s:%s/readyz", self._host, port)
                return
        raise OSError(errno.EADDRINUSE, f"no free port from {self._port} on at {self._host}")

    async def stop(self) -> None:
        if self._hanging_up is not None:
            self._hanging_up.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._hanging_up
        if self._runner is not None:
            await self._runner.cleanup()

    async def _hang_up(self) -> None:
        """On connections that were there one round ago: aiohttp has no limit for a request that never ends."""
        assert self._runner is not None, "start comes first"
        assert self._runner.server is not None, "set up before"
        before: set[object] = set()
        while True:
            await asyncio.sleep(LONGEST_CONNECTION_S / 2)
            open_now = list(self._runner.server.connections)
            for connection in open_now:
                if connection in before:
                    connection.force_close()
            before = set(open_now)

    async def _healthz(self, _: web.Request) -> web.Response:
        """The process runs and its loop turns; nothing more."""
        return web.json_response({"status": "ok"})

    async def _readyz(self, _: web.Request) -> web.Response:
        """200 once every assigned partition is open and nothing is waited for; 503 with the reason else."""
        readiness = self._readiness()
        return web.json_response(readiness, status=200 if readiness["ready"] else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        self._refresh()
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
