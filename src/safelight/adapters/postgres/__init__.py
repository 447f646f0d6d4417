"""Postgres for gateways of several processes: the database, the queue on PgQueuer, the bell across processes."""
