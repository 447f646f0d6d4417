-- The W3C trace context that a job was submitted in: what joins the spans of all who work on it.
ALTER TABLE jobs ADD COLUMN trace_parent TEXT;
