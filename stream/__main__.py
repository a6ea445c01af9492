"""`python -m stream COMMAND`, and the console script `touchstream`: finds the command, and says what went wrong."""

import importlib
import logging
import sys
from collections.abc import Mapping

import click

import tables
from stream.core.errors import Misconfigured, StreamError

OWNER = "touchstream"

# Name, module and summary stand here, so that --help loads none of them: a worker's imports alone take a second.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "topics": ("stream.commands.topics", "Compare or create the topics of topics.yaml."),
    "db": ("stream.commands.db", "Migrate or compare the schema of the database."),
    "ingest": ("stream.commands.ingest", "Send clicks and conversions from files into the topics."),
    "import": ("stream.commands.importing", "Send those of an existing Prosper202 installation."),
    "worker": ("stream.commands.worker", "Process the topics, until SIGTERM."),
    "status": ("stream.commands.status", "Show lag, watermark and dead letters; wait until all is written."),
    "explain": ("stream.commands.explain", "Show the journey of a conversion."),
    "models": ("stream.commands.models", "List, create, update and delete attribution models."),
    "settings": ("stream.commands.settings", "List settings, and switch multi-touch on or off."),
    "rebuild": ("stream.commands.rebuild", "Compute hours, snapshots and credits of a range once more."),
    "replay": ("stream.commands.replay", "Read a range of the log once more, as the backfill."),
    "backfill": ("stream.commands.replay", "The same as replay."),
    "purge": ("stream.commands.purge", "Remove the touchpoints of conversions, by id or by time."),
    "dead-letters": ("stream.commands.dead_letters", "List, show and send again what could not be read."),
    "progress": ("stream.commands.progress", "Show offsets, epochs and owners; reset a refused start."),
    "doctor": ("stream.commands.doctor", "Look at everything, and say what is wrong and what to do."),
    "demo": ("stream.commands.demo", "Show the whole way on sample traffic, in a minute."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command), f"{COMMANDS[cmd_name][0]} has no command"
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def cli() -> None:
    """Streaming multi-touch attribution on Kafka, Faust and SQL."""


def check_packages() -> None:
    """Raises Misconfigured if `tables` is somebody else's package: PyTables has the same import name."""
    if getattr(tables, "OWNER", None) != OWNER:
        where = getattr(tables, "__file__", None) or list(tables.__path__)
        raise Misconfigured(
            f'package "tables" at {where} is not ours; PyTables, which has the same name, probably took its place',
            hint="uninstall PyTables (pip uninstall tables), then install touchstream again",
        )


def quiet_libraries() -> None:
    """What they log is neither shown twice nor tells a password."""
    # Without a handler of its own aiokafka's warnings would stand on STDERR beside the one message that we give.
    logging.getLogger("aiokafka").addHandler(logging.NullHandler())
    # Below this level it logs each request, and the one that logs in holds the password.
    logging.getLogger("aiokafka.conn").setLevel(logging.INFO)


def main() -> None:
    """Exit codes: 0 done, 1 failed or not in time, 2 wrong usage or setting."""
    quiet_libraries()
    try:
        check_packages()
        cli(prog_name="touchstream")
    except StreamError as error:
        click.echo(f"error: {error}", err=True)
        if error.hint:
            click.echo(f"hint: {error.hint}", err=True)
        sys.exit(2 if isinstance(error, Misconfigured) else 1)


if __name__ == "__main__":
    main()
