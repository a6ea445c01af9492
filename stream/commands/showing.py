"""How does a command show times, lengths of time and rows to a person?"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from rich.console import Console
from rich.table import Table
from rich.text import Text

PLAIN_WIDTH = 200  # of a listing that is no terminal's


def utc(seconds: int | None) -> str | None:
    """ISO 8601 of unix seconds; None for none, and beyond year 9999, where there is no date."""
    if seconds is None or not 0 <= seconds < 253_402_300_800:
        return None
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def length(seconds: int) -> str:
    """'1 day, 2:03:04', with a sign if it is negative."""
    return f"{'-' if seconds < 0 else ''}{timedelta(seconds=abs(seconds))}"


def listing(*columns: str, numbers: Sequence[str] = ()) -> Table:
    """Rows without lines between them; those of `numbers` stand at the right."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        made.add_column(name, justify="right" if name in numbers else "left")
    return made


def add_row(rows: Table, *cells: str, style: str = "") -> None:
    """Cells as they are: plain strings would be read for markup."""
    rows.add_row(*(Text(cell, style=style) for cell in cells))


def show(rows: Table) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    console.print(rows)
