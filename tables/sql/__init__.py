"""The 202_ tables: facts, journeys, touchpoints, conversion logs and progress, on SQLite, MariaDB and MySQL.

columns, schema*                 what the tables are
upgrade, migrations, additions   making them so
differences                      telling where they are not
addresses, database, connections, errors   reaching the database, and what can go wrong with that
inserts, selects                 many rows in few statements
clicks, journeys, touchpoints, conversion_logs, progress   SQL, one module for each kind of row
facts                            all of it behind the ports of stream.agents
"""
