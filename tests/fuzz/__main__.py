"""`python -m tests.fuzz TARGET SECONDS`: atheris against one target; what it finds is kept in var/fuzz.

A finding is mended, and its bytes become a file of tests/fuzz/corpus/TARGET, which `make test` throws at the target.
"""

import logging
import resource
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["stream", "tables", "dotenv"], enable_loader_override=False):
    from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
FOUND = Path("var") / "fuzz"
LARGEST_INPUT_BYTES = 80_000  # beyond the largest event that is read
LONGEST_INPUT_S = 5
LARGEST_MEMORY_MIB = 1024


def main() -> None:
    name, seconds = sys.argv[1], int(sys.argv[2])
    logging.disable()
    kept = FOUND / name
    kept.mkdir(parents=True, exist_ok=True)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    options = [
        f"-max_total_time={seconds}",
        f"-timeout={LONGEST_INPUT_S}",
        f"-rss_limit_mb={LARGEST_MEMORY_MIB}",
        f"-max_len={LARGEST_INPUT_BYTES}",
        f"-artifact_prefix={FOUND}/{name}-",
        f"-dict={CORPUS.parent / 'words.dict'}",
        "-print_final_stats=1",
        "-verbosity=0",
    ]
    atheris.Setup([sys.argv[0], *options, str(kept), str(CORPUS / name)], TARGETS[name])
    atheris.Fuzz()


main()
