"""The kept corpus, and a fixed number of inputs bred from it, against each target; `make fuzz` goes on from there."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from stream.core.events import Click, Conversion
from stream.wire.decoding import decode_click, decode_conversion
from tests.fuzz.targets import TARGETS, outcome

CORPUS = Path(__file__).parent / "corpus"
BRED = 150  # of each target: a second or so
TOKENS = (
    b"\0",
    b"\xff",
    b"[" * 70,
    b"9" * 60,
    b"1e999",
    b"NaN",
    b'"\\ud800"',
    b"\xed\xa0\x80",
    b"-0.0",
    b"null",
    b"{}",
)


def seeds(name: str) -> list[Path]:
    return sorted((CORPUS / name).iterdir())


def bred(parents: list[bytes], chance: random.Random) -> bytes:
    """One of them with a few places changed."""
    data = bytearray(chance.choice(parents))
    for _ in range(chance.randint(1, 4)):
        start = chance.randint(0, len(data))
        end = min(len(data), start + chance.choice((0, 1, 1, 4, 30)))
        other = chance.choice(parents)
        cut = chance.randint(0, len(other))
        piece = chance.choice((bytes([chance.randrange(256)]), chance.choice(TOKENS), other[cut : cut + 20], b""))
        data[start:end] = piece
    return bytes(data)


def test_each_target_has_a_corpus_and_each_corpus_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)


@pytest.mark.parametrize(
    "path", [path for name in TARGETS for path in seeds(name)], ids=lambda path: f"{path.parent.name}-{path.name}"
)
def test_a_kept_input_is_borne(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize(("name", "decode"), [("clicks", decode_click), ("conversions", decode_conversion)])
def test_the_corpus_of_events_reaches_each_reason(name: str, decode: Callable[[bytes], Click | Conversion]) -> None:
    found = {outcome(decode, path.read_bytes()) for path in seeds(name)}
    assert len([each for each in found if isinstance(each, tuple)]) > 5, "events that are accepted"
    assert found >= {"unreadable_json", "not_an_object", "missing_field", "wrong_type", "out_of_range"}
    assert found >= {"too_many_decimals", "bad_text"}


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_inputs_bred_from_the_corpus_are_borne(name: str) -> None:
    parents = [path.read_bytes() for path in seeds(name)]
    chance = random.Random(name)
    for _ in range(BRED):
        data = bred(parents, chance)
        try:
            TARGETS[name](data)
        except BaseException as error:
            error.add_note(f"input: {data!r}")
            raise
