"""What do the tables of an existing Prosper202 installation hold? Read page by page, each page a statement of its own.

Nothing is locked, and no snapshot outlives a statement: READ COMMITTED, and a commit after each. 202_clicks has no
primary key; its pages follow the keys (user_id, click_time) and (click_id), which the statements name, for with some
statistics the server would sort the whole account instead.
"""

import contextlib
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from asyncmy.errors import Error as MysqlError

from stream.core.errors import Misconfigured, RefusedByDatabase, StartRefused, StreamError, Unavailable
from tables.sql.addresses import MYSQL
from tables.sql.connections import Connection, Row
from tables.sql.database import Database
from tables.sql.inserts import whole_list
from tables.sql.installed_address import SourceAddress
from tables.sql.selects import in_batches

CLICKS = "202_clicks"
CONVERSIONS = "202_conversion_logs"
_ADVANCE = "202_clicks_advance"
_ACCOUNTS = "202_ppc_accounts"
_CAMPAIGNS = "202_aff_campaigns"

_NEEDED: Mapping[str, tuple[str, ...]] = {
    CLICKS: (
        *("click_id", "user_id", "aff_campaign_id", "landing_page_id", "ppc_account_id", "click_cpc"),
        *("click_filtered", "click_bot", "click_time"),
    ),
    CONVERSIONS: (
        *("conv_id", "click_id", "transaction_id", "campaign_id", "click_payout", "user_id", "click_time"),
        *("conv_time", "deleted"),
    ),
    _ADVANCE: ("click_id", "text_ad_id"),
    _ACCOUNTS: ("ppc_account_id", "ppc_network_id"),
    _CAMPAIGNS: ("aff_campaign_id", "aff_network_id"),
}
_MAY_BE_ABSENT = frozenset({_ADVANCE, _ACCOUNTS, _CAMPAIGNS})

_DENIED_AT_THE_DOOR = frozenset({1044, 1045, 1049, 1251, 1698})
_NO_SUCH_TABLE = 1146
_NO_SUCH_KEY = 1176

# Above it a row is no event. One such row must not end the rising ids by which new rows are found.
GREATEST_CLICK_ID = 2**63 - 1

_REPEAT = "has the schema changed? Repeat the command"
_WHERE = "SELECT @@hostname, @@port, @@datadir, DATABASE()"
UPGRADE_HINT = "its schema is older: let Prosper202 upgrade itself (sign in as its administrator), then repeat this"


class SourceAway(Unavailable):
    """The source did not answer."""


class SourceUnfit(StreamError):
    """The source answered, and cannot be read as it is."""


class _Key(NamedTuple):
    columns: tuple[str, ...]
    relation: str = CLICKS

    @property
    def remedy(self) -> str:
        return f"ALTER TABLE `{self.relation}` ADD KEY `{'_'.join(self.columns)}` ({', '.join(self.columns)})"


_BY_TIME = _Key(("user_id", "click_time"))
_BY_ID = _Key(("click_id",))


class InstalledTables:
    """Connects to nothing before `check`, which comes first. Raises SourceAway and SourceUnfit."""

    def __init__(self, address: SourceAddress) -> None:
        self.name = address.name
        self._account = address.account
        self._database = Database(address.url, pool_size=2)
        self._click_columns = self._conversion_columns = ""
        self._by_time = self._by_id = ""

    async def close(self) -> None:
        await self._database.close()

    async def check(self) -> None:
        """Are all tables, columns, keys and privileges there?"""
        present = {name for name in _NEEDED if await self._is_readable(name)}
        self._by_time = await self._key_name(_BY_TIME)
        self._by_id = await self._key_name(_BY_ID)
        self._click_columns, self._conversion_columns = _click_select(present), _conversion_select(present)

    async def _is_readable(self, relation: str) -> bool:
        """False: it is not there, and need not be. Raises SourceUnfit, naming what is missing and the remedy."""
        rows = await self._fetch(
            "SELECT column_name FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = ?",
            [relation],
        )
        missing = [column for column in _NEEDED[relation] if column not in {str(row[0]).lower() for row in rows}]
        if rows and missing:
            raise SourceUnfit(
                f"table {relation} of {self.name} has no column {', '.join(missing)} that {self._account} may read",
                hint=f"{UPGRADE_HINT}; or, if privileges were given by column: {self._grant(relation)}",
            )
        try:
            await self._fetch(f"SELECT {', '.join(_NEEDED[relation])} FROM `{relation}` LIMIT 0")
        except SourceUnfit as error:
            if _code(error) != _NO_SUCH_TABLE:
                raise SourceUnfit(
                    f"table {relation} of {self.name} cannot be read: {error}", hint=self._grant(relation)
                ) from error
            if relation in _MAY_BE_ABSENT:
                return False
            raise SourceUnfit(
                f"{self.name} has no table {relation}", hint="does --from name the database of Prosper202?"
            ) from error
        return True

    def _grant(self, relation: str) -> str:
        return f"an administrator of it may run: GRANT SELECT ON `{self.name.rpartition('/')[2]}`.`{relation}` TO ..."

    async def _key_name(self, wanted: _Key) -> str:
        rows = await self._fetch(
            "SELECT index_name, column_name FROM information_schema.statistics WHERE table_schema = DATABASE()"
            " AND table_name = ? ORDER BY index_name, seq_in_index",
            [wanted.relation],
        )
        columns: dict[str, list[str]] = {}
        for name, column in rows:
            columns.setdefault(str(name), []).append(str(column).lower())
        for name, found in columns.items():
            quoted = "`{}`".format(name.replace("`", "``"))  # somebody else chose it
            if tuple(found[: len(wanted.columns)]) == wanted.columns and await self._is_usable(wanted.relation, quoted):
                return quoted
        raise SourceUnfit(
            f"table {wanted.relation} of {self.name} has no key on ({', '.join(wanted.columns)})",
            hint=f"without it each page would read the whole table: {wanted.remedy}",
        )

    async def _is_usable(self, relation: str, key: str) -> bool:
        """False: it is there, and the server is told to ignore it."""
        try:
            await self._fetch(f"SELECT 1 FROM `{relation}` FORCE INDEX ({key}) LIMIT 0")
        except SourceUnfit as error:
            if _code(error) != _NO_SUCH_KEY:
                raise
            return False
        return True

    async def is_same_database(self, database: Database) -> bool:
        """Whatever addresses they have: asks both servers where they keep which database."""
        if database.dialect != MYSQL:
            return False
        async with database.reading() as connection:
            ours = await connection.fetch(_WHERE)
        return list(ours) == list(await self._fetch(_WHERE))

    # Clicks

    async def next_user(self, after: int | None) -> int | None:
        """The least user id with clicks that is greater; None: there is none."""
        clause = "" if after is None else f" WHERE user_id > {after:d}"
        ((found,),) = await self._fetch(f"SELECT MIN(user_id) FROM `{CLICKS}` FORCE INDEX ({self._by_time}){clause}")
        return None if found is None else int(found)

    async def time_range(self, user_id: int) -> tuple[int, int] | None:
        """Of the clicks of a user; None: there are none."""
        ((first, last),) = await self._fetch(
            f"SELECT MIN(click_time), MAX(click_time) FROM `{CLICKS}` FORCE INDEX ({self._by_time})"
            f" WHERE user_id = {user_id:d}"
        )
        return None if first is None else (int(first), int(last))

    async def newest_ids(self) -> tuple[int, int]:
        """Of clicks and conversions; 0: there are none."""
        ((click_id,),) = await self._fetch(
            f"SELECT MAX(click_id) FROM `{CLICKS}` WHERE click_id <= {GREATEST_CLICK_ID:d}"
        )
        ((conv_id,),) = await self._fetch(f"SELECT MAX(conv_id) FROM `{CONVERSIONS}`")
        return int(click_id or 0), int(conv_id or 0)

    async def row_counts(self) -> tuple[int, int]:
        """Of clicks and conversions, about: what the server keeps as statistics."""
        rows = await self._fetch(
            "SELECT table_name, table_rows FROM information_schema.tables WHERE table_schema = DATABASE()"
        )
        counts = {str(name): int(count or 0) for name, count in rows}
        return counts.get(CLICKS, 0), counts.get(CONVERSIONS, 0)

    async def clicks_of_user(self, user_id: int, *, since: int, until: int, limit: int) -> Sequence[Row]:
        """By time, both ends included; rows of one second in any order."""
        return await self._fetch(
            f"{self._click_columns.format(self._by_time)} WHERE c.user_id = {user_id:d}"
            f" AND c.click_time BETWEEN {since:d} AND {until:d} ORDER BY c.click_time LIMIT {limit:d}"
        )

    async def clicks_of_second(self, user_id: int, click_time: int, *, after_id: int, limit: int) -> Sequence[Row]:
        """By id. All of the second are read for each page, which is worth it where one page does not hold them."""
        return await self._fetch(
            f"{self._click_columns.format(self._by_time)} WHERE c.user_id = {user_id:d}"
            f" AND c.click_time = {click_time:d} AND c.click_id > {after_id:d} ORDER BY c.click_id LIMIT {limit:d}"
        )

    async def clicks_after(self, click_id: int, *, limit: int) -> Sequence[Row]:
        """By rising id."""
        return await self._fetch(
            f"{self._click_columns.format(self._by_id)} WHERE c.click_id > {click_id:d}"
            f" AND c.click_id <= {GREATEST_CLICK_ID:d} ORDER BY c.click_id LIMIT {limit:d}"
        )

    async def clicks_up_to(self, click_id: int, *, limit: int) -> Sequence[Row]:
        """The newest, by falling id."""
        return await self._fetch(
            f"{self._click_columns.format(self._by_id)} WHERE c.click_id <= {click_id:d}"
            f" ORDER BY c.click_id DESC LIMIT {limit:d}"
        )

    async def doubled(self, click_ids: Iterable[int]) -> set[int]:
        """Those of the ids that have several rows. Read from the key alone."""
        found: set[int] = set()
        for ids in in_batches(sorted(set(click_ids))):
            rows = await self._fetch(
                f"SELECT click_id FROM `{CLICKS}` FORCE INDEX ({self._by_id}) WHERE click_id IN ({whole_list(ids)})"
                " GROUP BY click_id HAVING COUNT(*) > 1"
            )
            found.update(int(row[0]) for row in rows)
        return found

    async def clicks_of_ids(self, click_ids: Iterable[int]) -> Sequence[Row]:
        """All rows of each."""
        found: list[Row] = []
        for ids in in_batches(sorted(set(click_ids))):
            found += await self._fetch(
                f"{self._click_columns.format(self._by_id)} WHERE c.click_id IN ({whole_list(ids)})"
            )
        return found

    # Conversions

    async def conversions_after(self, conv_id: int, *, limit: int) -> Sequence[Row]:
        """By rising id."""
        return await self._fetch(
            f"{self._conversion_columns} WHERE c.conv_id > {conv_id:d} ORDER BY c.conv_id LIMIT {limit:d}"
        )

    async def conversions_up_to(self, conv_id: int, *, limit: int) -> Sequence[Row]:
        """The newest, by falling id."""
        return await self._fetch(
            f"{self._conversion_columns} WHERE c.conv_id <= {conv_id:d} ORDER BY c.conv_id DESC LIMIT {limit:d}"
        )

    async def _fetch(self, statement: str, parameters: Sequence[object] = ()) -> Sequence[Row]:
        async with self._connected() as connection:
            return await connection.fetch(statement, parameters)

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Connection]:
        """For one statement."""
        try:
            async with self._database.reading() as connection:
                yield connection
        except MysqlError as error:  # none of those that are known: no reason to end without a word
            raise SourceUnfit(f"source {self.name}: {error}", hint=_REPEAT) from error
        except Unavailable as error:
            raise SourceAway(
                f"source {self.name} did not answer: {error}",
                hint="is the server of --from running, and does this machine reach it?",
            ) from error
        except (Misconfigured, StartRefused, RefusedByDatabase) as error:
            hint = error.hint if isinstance(error, Misconfigured) else _REPEAT
            if _code(error) in _DENIED_AT_THE_DOOR:
                hint = (
                    f"check user, password and database of --from, and that {self._account} may come from this machine"
                )
            raise SourceUnfit(f"source {self.name}: {error}", hint=hint) from error


def _click_select(present: Collection[str]) -> str:
    """Up to the key, which is left open, and the joins. All but the clicks themselves are found by primary keys."""
    network, network_join = _looked_up(present, _ACCOUNTS, "ppc_network_id", "ppc_account_id = c.ppc_account_id")
    ad, ad_join = _looked_up(present, _ADVANCE, "text_ad_id", "click_id = c.click_id")
    advertiser, campaign_join = _looked_up(present, _CAMPAIGNS, "aff_network_id", "aff_campaign_id = c.aff_campaign_id")
    return (
        "SELECT c.click_id, c.user_id, c.aff_campaign_id, c.click_time, CAST(c.click_cpc AS CHAR), c.ppc_account_id,"
        f" {network}, c.landing_page_id, {ad}, {advertiser}, c.click_bot <> 0, c.click_filtered <> 0"
        f" FROM `{CLICKS}` c FORCE INDEX ({{}}){network_join}{ad_join}{campaign_join}"
    )


def _conversion_select(present: Collection[str]) -> str:
    advertiser, join = _looked_up(present, _CAMPAIGNS, "aff_network_id", "aff_campaign_id = c.campaign_id")
    return (
        "SELECT c.conv_id, c.click_id, c.user_id, c.campaign_id, c.click_time, c.conv_time,"
        f" CAST(c.click_payout AS CHAR), c.transaction_id, {advertiser}, c.deleted <> 0 FROM `{CONVERSIONS}` c{join}"
    )


def _looked_up(present: Collection[str], relation: str, column: str, on: str) -> tuple[str, str]:
    """A column and the join that gives it; NULL where there is no such row, or no such table."""
    if relation not in present:
        return "NULL", ""
    return f"`{relation}`.{column}", f" LEFT JOIN `{relation}` ON `{relation}`.{on}"


def _code(error: BaseException | None) -> int:
    """The server's own number of an error, wherever in the chain of causes it stands; 0: none."""
    while error is not None:
        if error.args and isinstance(error.args[0], int):
            return error.args[0]
        error = getattr(error, "orig", None) or error.__cause__
    return 0
