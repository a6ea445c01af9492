"""`worker`: process the topics until SIGTERM."""

import click

from stream.config import read_settings


@click.command(name="worker")
def command() -> None:
    """Process clicks and conversions, until SIGTERM.

    Any number of workers share the partitions of one TOUCHSTREAM_APP_ID. Health is at TOUCHSTREAM_HEALTH, or at the
    next free port, as the log says: /healthz, /readyz, /metrics.
    """
    settings = read_settings()
    # Before Faust is imported: it must not see another event loop.
    import mode.loop  # noqa: PLC0415

    mode.loop.use("uvloop")
    from stream.worker import Worker  # noqa: PLC0415

    Worker(settings).run()
