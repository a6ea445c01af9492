"""`python -m tests.faults.matrix [NAMES...]`: run the faults that have no good result yet, then write the page."""

import argparse
import logging
import sys
import time
from contextlib import ExitStack

import click

from tests.faults.matrix.catalogue import ALL
from tests.faults.matrix.contract import Fault
from tests.faults.matrix.results import Result, digest_of_code, line, path_of, read, write, write_page
from tests.faults.matrix.runner import run_fault
from tests.faults.matrix.servers import Shared


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.matrix", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="run these, whatever came of them before")
    parser.add_argument(
        "--list", action="store_true", help="names, what came of them (OLD: with other code) and what they do"
    )
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
    if result is None:
        return ""
    if result.code != digest_of_code():
        return "OLD"
    return "ok" if result.is_right else "FAILED"


def _results() -> list[Result]:
    return [each for name in ALL if (each := read(name)) is not None]


def forget(names: list[str]) -> None:
    for name in names:
        path_of(name).unlink(missing_ok=True)


def _chosen(names: list[str]) -> list[Fault]:
    if names:
        return [ALL[name] for name in names]
    standing = {fault.name: _standing(fault) for fault in ALL.values()}
    if old := [name for name, it_is in standing.items() if it_is == "OLD"]:
        click.echo(f"{len(old)} results are of other code and do not count: {', '.join(old)}")
    left = [fault for fault in ALL.values() if standing[fault.name] != "ok"]
    if not left:
        click.echo("every fault has a good result: beginning anew")
        forget(list(ALL))
        return list(ALL.values())
    if len(left) < len(ALL):
        click.echo(f"{len(ALL) - len(left)} faults have a good result already; --anew runs them again")
    return left


def run(faults: list[Fault]) -> int:
    began = time.monotonic()
    failed: list[str] = []
    said = ""
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
            # A run that is cut short leaves the page as whole as the results are.
            said = write_page(ALL.values(), _results())
    click.echo(said)
    if failed:
        click.echo(f"failed: {', '.join(failed)}", err=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
