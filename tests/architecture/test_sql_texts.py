"""What may stand in SQL text beside constants? Whole numbers, and names of our own; any other value is bound."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator

from tests.architecture.project import ROOT, python_files, tree_of

_SQL = re.compile(r"\b(SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|DROP|FROM|WHERE|VALUES|JOIN|ORDER BY|SET) ")
_CONSTANT = re.compile(r"_?[A-Z][A-Z0-9_]*(\.[A-Z_]+)?|_?[A-Z]\w+\.[A-Z_]+")
# Of whole numbers, of names of columns, or a text as hexadecimal digits.
_MADE_SAFE = ("whole_list(", "units(connection.dialect, '", "scaled(connection.dialect, '", "text_literal(")

# By module: each is a text of the schema or of the module itself, or a condition made of whole numbers.
ALLOWED: dict[str, set[str]] = {
    "stream/commands/demo_rows.py": {"relation"},
    "tables/sql/accounts.py": {"rows", "tail"},
    "tables/sql/additions.py": {"declared.name", "definition"},
    "tables/sql/audit_looks.py": {"', '.join('?' * len(_NEEDED))", "of_users"},
    "tables/sql/clicks.py": {"' AND click_bot = 0' if visitor_id else ''", "columns", "keys", "lock", "select"},
    "tables/sql/conversion_logs.py": {"pairs"},
    "tables/sql/credits.py": {"clause", "credit", "ids", "select"},
    "tables/sql/database.py": {"limits"},
    "tables/sql/deep.py": {
        "column",
        "credit",
        "of_users('m.')",
        "of_users('s.')",
        "payout",
        "relation",
        "revenue",
        "weight",
        "within.of_users('j.')",
        "within.of_users('s.')",
    },
    "tables/sql/doubles.py": {"column", "natural", "number", "relation"},
    "tables/sql/hours.py": {"clause"},
    "tables/sql/inserts.py": {"', '.join(self.columns)", "', '.join(self.identity)", "self.relation", "updates"},
    "tables/sql/installed.py": {
        "', '.join(_NEEDED[relation])",
        "', '.join(self.columns)",
        "'_'.join(self.columns)",
        "ad",
        "ad_join",
        "advertiser",
        "campaign_join",
        "clause",
        "join",
        "key",
        "network",
        "network_join",
        "on",
        "relation",
        "self._by_id",
        "self._by_time",
        "self._click_columns.format(self._by_id)",
        "self._click_columns.format(self._by_time)",
        "self._conversion_columns",
        "self.name.rpartition('/')[2]",
        "self.relation",
    },
    "tables/sql/integrity.py": {
        "clause",
        "clause.replace('conv_id', 'j.conv_id')",
        "column",
        "relation",
        "time",
        "users",
    },
    "tables/sql/journeys.py": {"', '.join(columns)", "clause", "column", "select"},
    "tables/sql/migrations/versions/v0005_greatest_version.py": {"relation"},
    "tables/sql/migrations/versions/v0006_whole_touches_in_the_key.py": {"columns", "wanted.name"},
    "tables/sql/model_removal.py": {"place"},
    "tables/sql/progress.py": {"lock"},
    "tables/sql/published_rows.py": {
        "column",
        "cost",
        "credit",
        "relation",
        "revenue",
        "weight",
        "within.of_users('h.')",
    },
    "tables/sql/purge_ranges.py": {"columns", "ids", "relation"},
    "tables/sql/rebuild_ranges.py": {"relation"},
    "tables/sql/removals.py": {"clause"},
    "tables/sql/replays.py": {"chosen", "of_users"},
    "tables/sql/republishing.py": {"clause"},
    "tables/sql/reported.py": {"columns"},
    "tables/sql/retention.py": {"end", "lock"},
    "tables/sql/scratch.py": {"', '.join([marks] * len(rows))", "', '.join(columns)", "relation"},
    "tables/sql/selects.py": {"order_by", "select"},
    "tables/sql/snapshots.py": {"_by_hour(connection.dialect)", "clause", "cost", "revenue"},
    "tables/sql/standing_clicks.py": {"columns", "of_users"},
    "tables/sql/standing_rows.py": {"of_user", "payout", "relation"},
    "tables/sql/toggles.py": {"columns", "marks"},
    "tables/sql/touchpoint_fitting.py": {"in_scope"},
    "tables/sql/touchpoints.py": {"by_conversion"},
    "tables/sql/upgrade.py": {"lock"},
    "tables/sql/views.py": {"name"},
}


def interpolated(tree: ast.AST) -> Iterator[str]:
    """What is put into SQL text, as source: f-strings, `format` and `%`; without constants and `:d`."""
    for node in ast.walk(tree):
        match node:
            case ast.JoinedStr(values=values):
                literal = "".join(str(part.value) for part in values if isinstance(part, ast.Constant))
                inner = [part for part in values if isinstance(part, ast.FormattedValue)]
                if _SQL.search(literal):
                    yield from (ast.unparse(part.value) for part in inner if not _is_number(part))
            case ast.BinOp(op=ast.Mod(), left=ast.Constant(value=str(text))) if _SQL.search(text):
                yield ast.unparse(node)
            case ast.Call(func=ast.Attribute(attr="format", value=ast.Constant(value=str(text)))) if _SQL.search(text):
                yield ast.unparse(node)


def _is_number(part: ast.FormattedValue) -> bool:
    return part.format_spec is not None and ast.unparse(part.format_spec) in {"f'd'", 'f"d"'}


def is_harmless(source: str) -> bool:
    return _CONSTANT.fullmatch(source) is not None or source.startswith(_MADE_SAFE)


def test_sql_is_made_of_constants_whole_numbers_and_names_of_our_own() -> None:
    found = defaultdict(set)
    for path in python_files("stream", "tables"):
        for source in interpolated(tree_of(path)):
            if not is_harmless(source):
                found[path.relative_to(ROOT).as_posix()].add(source)
    surplus = {path: names - ALLOWED.get(path, set()) for path, names in found.items()}
    assert {path: names for path, names in surplus.items() if names} == {}, (
        "bind it as a parameter, or write it with :d"
    )
    gone = {path: names - found.get(path, set()) for path, names in ALLOWED.items()}
    assert {path: names for path, names in gone.items() if names} == {}, "is not in the code any more"


def test_the_look_finds_each_way_to_put_a_value_into_sql() -> None:
    source = """
f"SELECT a FROM t WHERE b = {b}"
f"SELECT a FROM t WHERE b = {n:d} AND c IN ({whole_list(x)}) AND d = '{Scope.ALL}' AND e = {_MOST}"
"DELETE FROM t WHERE a = '%s'" % c
"DELETE FROM t WHERE a = '{}'".format(d)
f"no statement, {e}"
"""
    found = [each for each in interpolated(ast.parse(source)) if not is_harmless(each)]
    assert sorted(found) == ["\"DELETE FROM t WHERE a = '%s'\" % c", "\"DELETE FROM t WHERE a = '{}'\".format(d)", "b"]
