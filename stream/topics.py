"""Which topics are there, and how must they be? Reads topics.yaml; knows no broker."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from stream.core.errors import Misconfigured

# A link to the file at the top of the project in a checkout, the file itself in an installed package.
TOPICS_FILE = Path(__file__).with_name("topics.yaml")

CLICKS = "clicks"
CONVERSIONS = "conversions"
JOURNEYS = "journeys"
SNAPSHOTS = "attribution-snapshots"
CREDITS = "attribution-credits"
JOURNEYS_STATE = "journeys-state"
DEAD_LETTERS_SUFFIX = "-dead-letters"

DAY_MS = 86_400_000
DEFAULT_LOOKBACK_DAYS = 30
# An event may reach the log up to 31 days before its own time; a day more, because segments go as a whole.
EARLY_DAYS = 31
SPARE_DAYS = 1

_RETENTION = "retention.ms"
_MAX_BYTES = "max.message.bytes"
_KEYS = frozenset({"description", "key", "group", "partitions", "origin", "schema", "dead_letters", "config"})
_REQUIRED = {"topics": {"description", "key", "partitions", "origin", "config"}}
_REQUIRED["changelogs"] = _REQUIRED["topics"] - {"origin"} | {"group"}


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """An entry of topics.yaml; `name` is without prefix, and for a changelog that of its state table."""

    name: str
    description: str
    key: str
    group: str  # '': on its own, and its count is not overridden
    partitions: int
    is_source: bool  # written by others
    is_changelog: bool
    schema: str  # '': none
    dead_letters: str  # name of another topic, '': none
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PlannedTopic:
    """A topic as the broker must have it."""

    name: str
    partitions: int
    config: Mapping[str, str]


def changelog_name(app_id: str, table_name: str) -> str:
    """As Faust derives it."""
    return f"{app_id}-{table_name}-changelog"


def hours_group_id(app_id: str) -> str:
    """The consumer group that reads journeys; that of clicks and conversions is `app_id` itself."""
    return f"{app_id}-hours"


def read_topics(path: Path = TOPICS_FILE) -> Sequence[TopicSpec]:
    """Raises Misconfigured for a file that is missing, malformed or contradicts itself."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise Misconfigured(f"{path} cannot be read: {error.strerror}") from error
    return parse_topics(text)


def parse_topics(text: str) -> Sequence[TopicSpec]:
    """Raises Misconfigured, naming the topic and the rule it breaks."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise Misconfigured(f"topics.yaml is no YAML: {error}") from error
    sections = _mapping("topics.yaml", document, allowed=_REQUIRED.keys(), required=_REQUIRED.keys())
    specs = tuple(
        _parse_entry(section, name, entry)
        for section in _REQUIRED
        for name, entry in _mapping(f'"{section}"', sections[section]).items()
    )
    _check_dead_letters(specs)
    _check_groups(specs)
    for spec in specs:
        if spec.is_source:
            _check_retention(spec)
    return specs


def plan_topics(
    specs: Sequence[TopicSpec], *, prefix: str, app_id: str, partitions: int, lookback_days: int
) -> Sequence[PlannedTopic]:
    """The topics of an installation. `partitions` 0: the counts of the file."""
    return tuple(
        PlannedTopic(
            name=changelog_name(app_id, spec.name) if spec.is_changelog else prefix + spec.name,
            partitions=partitions if partitions and spec.group else spec.partitions,
            config=_config_for_lookback(spec, lookback_days),
        )
        for spec in specs
    )


def least_retention_ms(lookback_days: int) -> int:
    return (lookback_days + EARLY_DAYS + SPARE_DAYS) * DAY_MS


def _config_for_lookback(spec: TopicSpec, lookback_days: int) -> Mapping[str, str]:
    least = least_retention_ms(lookback_days)
    if not spec.is_source or not 0 <= int(spec.config[_RETENTION]) < least:
        return spec.config
    return {**spec.config, _RETENTION: str(least)}


def _mapping(
    what: str, value: object, *, allowed: Collection[str] = (), required: Collection[str] = ()
) -> Mapping[str, object]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise Misconfigured(f"{what} is not a mapping of names")
    unknown = sorted(set(value) - set(allowed)) if allowed else []
    missing = sorted(set(required) - set(value))
    if unknown or missing:
        fault = f'unknown key "{unknown[0]}"' if unknown else f'no key "{missing[0]}"'
        raise Misconfigured(f"{what} has {fault}")
    return value


def _parse_entry(section: str, name: str, value: object) -> TopicSpec:
    what = f'topic "{name}"'
    entry = _mapping(what, value, allowed=_KEYS, required=_REQUIRED[section])
    config = _mapping(f"config of {what}", entry["config"])
    for key in ("description", "key", "group", "schema", "dead_letters"):
        if not isinstance(entry.get(key, ""), str):
            raise Misconfigured(f'"{key}" of {what} is not text')
    count = entry["partitions"]
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise Misconfigured(f'"partitions" of {what} is "{count}", not a whole number above 0')
    if entry.get("origin", "ours") not in {"outside", "ours"}:
        raise Misconfigured(f'"origin" of {what} is "{entry["origin"]}", neither "outside" nor "ours"')
    if not all(isinstance(item, str | int) and not isinstance(item, bool) for item in config.values()):
        raise Misconfigured(f"config of {what} holds something other than text and whole numbers")
    return TopicSpec(
        name=name,
        description=str(entry["description"]),
        key=str(entry["key"]),
        group=str(entry.get("group", "")),
        partitions=count,
        is_source=entry.get("origin") == "outside",
        is_changelog=section == "changelogs",
        schema=str(entry.get("schema", "")),
        dead_letters=str(entry.get("dead_letters", "")),
        config={key: str(item) for key, item in config.items()},
    )


def _check_dead_letters(specs: Sequence[TopicSpec]) -> None:
    by_name = {spec.name: spec for spec in specs if not spec.is_changelog}
    for spec in specs:
        if not spec.is_source:
            continue
        expected = spec.name + DEAD_LETTERS_SUFFIX
        if spec.dead_letters != expected:
            raise Misconfigured(f'dead_letters of topic "{spec.name}" is "{spec.dead_letters}", expected "{expected}"')
        if expected not in by_name:
            raise Misconfigured(f'topic "{spec.name}" sends its dead letters to "{expected}", which is not in the file')
        letters = by_name[expected]
        if _number(letters, _MAX_BYTES) <= _number(spec, _MAX_BYTES):
            raise Misconfigured(f'{_MAX_BYTES} of topic "{expected}" leaves no room beside a record of "{spec.name}"')


def _check_groups(specs: Sequence[TopicSpec]) -> None:
    first_by_group: dict[str, TopicSpec] = {}
    for spec in specs:
        first = first_by_group.setdefault(spec.group, spec)
        if not spec.group:
            continue
        if spec.partitions != first.partitions:
            raise Misconfigured(
                f'topic "{spec.name}" has {spec.partitions} partitions, "{first.name}" of the same group'
                f' "{spec.group}" has {first.partitions}',
                hint="co-partitioned topics need equal counts",
            )
        if spec.key != first.key and not spec.is_changelog:
            raise Misconfigured(
                f'topic "{spec.name}" is keyed by "{spec.key}", "{first.name}" of the same group by "{first.key}"'
            )


def _check_retention(spec: TopicSpec) -> None:
    least = least_retention_ms(DEFAULT_LOOKBACK_DAYS)
    found = _number(spec, _RETENTION)
    if 0 <= found < least:
        raise Misconfigured(
            f'{_RETENTION} of topic "{spec.name}" is {found}, too little for a replay: at least {least}'
        )


def _number(spec: TopicSpec, key: str) -> int:
    text = spec.config.get(key, "")
    try:
        return int(text)
    except ValueError:
        raise Misconfigured(f'{key} of topic "{spec.name}" is "{text}", not a whole number') from None
