"""Alembic's migrations, run by `tables.sql.upgrade` without an alembic.ini.

A migration adds what is missing and drops nothing, for it also meets installations that have some of it already.
"""
