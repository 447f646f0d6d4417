ALTER TABLE events ALTER COLUMN era SET DEFAULT pg_current_xact_id()::text::bigint;
