"""What outlives an event: changelog-backed state (`tables.state`) and SQL (`tables.sql`)."""

# `tables` is also the import name of PyTables: `stream.__main__` refuses to start when this mark is missing.
OWNER = "touchstream"
