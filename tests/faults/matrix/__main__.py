"""`python -m tests.faults.matrix [NAMES...]`: run the faults that have no good result yet, then write the page."""

import argparse
import logging
import sys
import time
from contextlib import ExitStack

import click

from tests.faults.matrix.catalogue import ALL
from tests.faults.matrix.contract import Fault
from tests.faults.matrix.results import PAGE, line, page, path_of, read, write
from tests.faults.matrix.runner import run_fault
from tests.faults.matrix.servers import Shared


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.matrix", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="run these, whatever came of them before")
    parser.add_argument("--list", action="store_true", help="names and what they do, and what came of them")
    parser.add_argument("--anew", action="store_true", help="forget all results and begin again")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in ALL]:
        click.echo(f"no such fault: {', '.join(unknown)}\nhint: --list names them", err=True)
        return 2
    if given.list:
        for fault in ALL.values():
            click.echo(f"{fault.name:32} {_standing(fault):8} {fault.about}")
        return 0
    if given.anew:
        forget(list(ALL))
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # the sender's: that a broker is away is what we want
    return run(_chosen(given.names))


def _standing(fault: Fault) -> str:
    result = read(fault.name)
    return "" if result is None else "ok" if result.is_right else "FAILED"


def forget(names: list[str]) -> None:
    for name in names:
        path_of(name).unlink(missing_ok=True)


def _chosen(names: list[str]) -> list[Fault]:
    if names:
        return [ALL[name] for name in names]
    left = [fault for fault in ALL.values() if _standing(fault) != "ok"]
    if not left:
        click.echo("every fault has a good result: beginning anew")
        forget(list(ALL))
        return list(ALL.values())
    if len(left) < len(ALL):
        click.echo(f"{len(ALL) - len(left)} faults have a good result already; --anew runs them again")
    return left


def run(faults: list[Fault]) -> int:
    began = time.monotonic()
    failed = []
    with ExitStack() as stack:
        shared = Shared(stack)
        for number, fault in enumerate(faults, 1):
            click.echo(f"[{number}/{len(faults)}, {time.monotonic() - began:.0f} s] {fault.name} ...")
            result = run_fault(fault, shared)
            write(result)
            click.echo(f"  {line(result)} ({result.seconds:.0f} s)")
            if not result.is_right:
                failed.append(fault.name)
                click.echo(f"  all of it: {path_of(fault.name)}, logs beside it", err=True)
    results = [each for name in ALL if (each := read(name)) is not None]
    PAGE.write_text(page(ALL.values(), results), encoding="utf-8")
    click.echo(f"{PAGE} tells of {len(results)} of {len(ALL)} faults")
    if failed:
        click.echo(f"failed: {', '.join(failed)}", err=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
