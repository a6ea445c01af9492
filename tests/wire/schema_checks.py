"""Validation by the published schemas, with numbers read as decimals: what the decoders are compared with."""

import json
from decimal import Decimal, localcontext
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend
from referencing import Registry, Resource

from stream.wire.schemas import NAMES, schema_text


def check(name: str, text: str) -> None:
    """Raise ValidationError if the JSON text does not pass the schema, ValueError if it is no JSON."""
    with localcontext() as context:
        context.prec = 1000  # the remainder of 1E+400 by 0.00001 has to be exact too
        _validator(name).validate(_exact(text))


def passes(name: str, text: str) -> bool:
    """True if the JSON text passes the schema; text that is no JSON passes none."""
    try:
        check(name, text)
    except (ValueError, ValidationError):
        return False
    return True


def _exact(text: str) -> object:
    """JSON with numbers as they are written; a float would have changed them before the schema sees them."""
    return json.loads(text, parse_float=Decimal, parse_constant=_refuse)


def _refuse(name: str) -> None:
    raise ValueError(name)


def _is_integer(_: object, instance: object) -> bool:
    if isinstance(instance, Decimal):
        return instance == instance.to_integral_value()
    return isinstance(instance, int) and not isinstance(instance, bool)


_TYPES = Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer)
_Exact = extend(Draft202012Validator, type_checker=_TYPES)  # type: ignore[no-untyped-call]  # its stubs lack it


@cache
def _validator(name: str) -> Any:  # noqa: ANN401  # its class is made at run time
    registry: Registry[Any] = Registry().with_resources(
        (f"{each}.schema.json", Resource.from_contents(_exact(schema_text(each)))) for each in NAMES
    )
    return _Exact(_exact(schema_text(name)), registry=registry)
