"""The JSON Schemas of what goes over the wire, as package data; one file for each name and version."""

from importlib.resources import files

NAMES = ("click.v1", "conversion.v1", "journey.v1", "snapshot.v1", "credit.v1")


def schema_text(name: str) -> str:
    """The JSON Schema of one of NAMES. Raises FileNotFoundError for any other name."""
    return (files(__name__) / f"{name}.schema.json").read_text(encoding="utf-8")
