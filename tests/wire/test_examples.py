"""The example messages: every good one is read, every bad one is refused for the reason it carries."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from stream.core.errors import InvalidEvent
from stream.wire.decoding import decode_click, decode_conversion
from stream.wire.reasons import MEANINGS, Reason
from stream.wire.schemas import NAMES, schema_text
from tests.wire.schema_checks import check, passes

EXAMPLES = Path(__file__).parent.parent / "examples"
DECODERS: dict[str, Callable[[bytes], object]] = {"click.v1": decode_click, "conversion.v1": decode_conversion}


def examples(kind: str) -> list[object]:
    paths = sorted(EXAMPLES.glob(f"*/{kind}/*.json"))
    return [pytest.param(path, id=f"{path.parent.parent.name}-{path.stem}") for path in paths]


def schema_of(path: Path) -> str:
    return path.parent.parent.name


@pytest.mark.parametrize("path", examples("good"))
def test_a_good_example_passes_its_schema_and_is_read(path: Path) -> None:
    name = schema_of(path)
    check(name, path.read_text())
    if name in DECODERS:
        DECODERS[name](path.read_bytes())


@pytest.mark.parametrize("path", examples("bad"))
def test_a_bad_example_is_refused_for_its_reason(path: Path) -> None:
    name, example = schema_of(path), json.loads(path.read_text())
    if "event" in example:
        text = json.dumps(example["event"])
        assert not passes(name, text)
    else:
        text = example["text"]
    if name in DECODERS:
        with pytest.raises(InvalidEvent) as caught:
            DECODERS[name](text.encode())
        assert caught.value.reason == example["reason"]


@pytest.mark.parametrize("name", NAMES)
def test_each_schema_is_a_schema_and_has_good_and_bad_examples(name: str) -> None:
    Draft202012Validator.check_schema(json.loads(schema_text(name)))
    assert list((EXAMPLES / name / "good").glob("*.json"))
    assert list((EXAMPLES / name / "bad").glob("*.json"))


def test_no_example_is_without_a_schema() -> None:
    assert {path.name for path in EXAMPLES.iterdir()} == set(NAMES)


def test_each_reason_has_a_meaning() -> None:
    assert list(MEANINGS) == list(Reason)


def test_each_reason_of_decoding_has_an_example() -> None:
    shown = {json.loads(path.read_text())["reason"] for path in EXAMPLES.glob("*/bad/*.json")} - {"schema"}
    elsewhere = {Reason.TOO_LARGE, Reason.NO_VALUE, Reason.EVENT_TIME_AHEAD}  # tests/wire/test_decoding.py
    later = {Reason.REKEYED, Reason.REFUSED_BY_DATABASE}  # found by the fold and by the database
    assert shown == {str(reason) for reason in set(Reason) - elsewhere - later}
