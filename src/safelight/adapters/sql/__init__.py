"""Stores in the SQL that every engine of ours accepts; `sqlite/` and `postgres/` bring the engines."""
