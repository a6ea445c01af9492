"""Bytes to events and back, and what becomes of records that are no events. Knows no broker and no database."""
