"""topics.yaml: what it must say, and how each broken rule is named."""

from pathlib import Path

import pytest

from stream.core.errors import Misconfigured
from stream.topics import DAY_MS, TOPICS_FILE, parse_topics, plan_topics, read_topics

TEXT = TOPICS_FILE.read_text(encoding="utf-8")


def refusal(text: str) -> str:
    with pytest.raises(Misconfigured) as caught:
        parse_topics(text)
    return str(caught.value)


def changed(before: str, after: str) -> str:
    assert before in TEXT, f"topics.yaml no longer says {before!r}"
    return TEXT.replace(before, after, 1)


def test_the_file_at_the_top_is_the_one_that_is_read() -> None:
    assert TOPICS_FILE.resolve() == Path(__file__).resolve().parent.parent / "topics.yaml"
    names = [spec.name for spec in read_topics()]
    assert names == [
        "clicks",
        "conversions",
        "clicks-dead-letters",
        "conversions-dead-letters",
        "journeys",
        "attribution-snapshots",
        "attribution-credits",
        "journeys-state",
    ]


def test_names_counts_and_retention_follow_the_settings() -> None:
    planned = plan_topics(read_topics(), prefix="eu-", app_id="mta", partitions=3, lookback_days=60)
    assert {topic.name: topic.partitions for topic in planned} == {
        "eu-clicks": 3,
        "eu-conversions": 3,
        "eu-clicks-dead-letters": 1,
        "eu-conversions-dead-letters": 1,
        "eu-journeys": 3,
        "eu-attribution-snapshots": 3,
        "eu-attribution-credits": 3,
        "mta-journeys-state-changelog": 3,
    }
    retention = {topic.name: topic.config.get("retention.ms") for topic in planned}
    assert retention["eu-clicks"] == str((60 + 31 + 1) * DAY_MS)
    assert retention["eu-journeys"] == str(31 * DAY_MS)


def test_without_overrides_the_file_counts() -> None:
    planned = plan_topics(read_topics(), prefix="", app_id="touchstream", partitions=0, lookback_days=7)
    assert {topic.partitions for topic in planned} == {8, 1}
    assert planned[0].config["retention.ms"] == str(62 * DAY_MS), "a shorter lookback shortens nothing"


def test_endless_retention_is_left_alone() -> None:
    specs = parse_topics(changed("retention.ms: 5356800000", "retention.ms: -1"))
    planned = plan_topics(specs, prefix="", app_id="a", partitions=0, lookback_days=60)
    assert planned[0].config["retention.ms"] == "-1"


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("topics:\n", "topcis:\n", 'topics.yaml has unknown key "topcis"'),
        ("    key: user:campaign", "    kye: user:campaign", 'topic "clicks" has unknown key "kye"'),
        ("    key: user:campaign\n", "", 'topic "clicks" has no key "key"'),
        ("partitions: 8", "partitions: 0", '"partitions" of topic "clicks" is "0"'),
        ("partitions: 8", "partitions: 4", 'topic "conversions" has 8 partitions, "clicks" of the same group'),
        ("key: user:campaign", "key: click_id", 'topic "conversions" is keyed by "user:campaign"'),
        ("key: user:campaign", "key: 7", '"key" of topic "clicks" is not text'),
        ("origin: outside", "origin: inside", '"origin" of topic "clicks" is "inside"'),
        ("    dead_letters: clicks-dead-letters\n", "", 'dead_letters of topic "clicks" is "", expected'),
        ("  clicks-dead-letters:\n", "  click-dead-letters:\n", 'to "clicks-dead-letters", which is not in the file'),
        ("max.message.bytes: 6291456", "max.message.bytes: 4194304", "leaves no room"),
        ("retention.ms: 5356800000", "retention.ms: 5270400000", "too little for a replay: at least 5356800000"),
        ("retention.ms: 5356800000", "retention.ms: long", 'is "long", not a whole number'),
        ("cleanup.policy: delete", "cleanup.policy: [delete]", "text and whole numbers"),
        ("topics:", "topics: {", "is no YAML"),
        ("changelogs:", "changelogs:\n  - journeys-state\nother:", 'unknown key "other"'),
    ],
)
def test_a_broken_rule_is_named(before: str, after: str, expected: str) -> None:
    assert expected in refusal(changed(before, after))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"none\.yaml cannot be read"):
        read_topics(tmp_path / "none.yaml")


def test_something_other_than_a_mapping_is_refused() -> None:
    assert refusal("- a") == "topics.yaml is not a mapping of names"
