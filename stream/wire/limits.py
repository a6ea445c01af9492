"""How large may a field be? The ranges of the SQL columns, in one place for both ways of decoding."""

MAX_EVENT_BYTES = 65_536
MAX_DEPTH = 64  # of objects and lists inside one another; a fixed number, so that no call stack decides
MAX_EVENT_AHEAD_SECONDS = 31 * 86_400

MEDIUMINT = 16_777_215
INT = 4_294_967_295
BIGINT = 2**63 - 1  # the column is unsigned, SQLite's integers are not
CLICK_TIME = 4_294_967_295
CONVERSION_TIME = 2_147_483_647
TEXT_CHARACTERS = 255

# In units of 0.00001: DECIMAL(7,5) and DECIMAL(11,5).
CPC_UNITS = 9_999_999
PAYOUT_UNITS = 99_999_999_999
