-- The order of events across jobs. A number can become visible later than a higher one, where several transactions write at a
-- time; `era` says which transaction wrote it, so that a reader can leave those alone that others may still join.
ALTER TABLE events ADD COLUMN era BIGINT NOT NULL DEFAULT 0;
CREATE INDEX events_in_order ON events (era, seq);
