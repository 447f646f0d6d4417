-- When the provider was asked to stop an attempt, and when the caller last consented to a retry.
ALTER TABLE attempts ADD COLUMN stop_asked_at BIGINT;
ALTER TABLE jobs     ADD COLUMN retried_at    BIGINT;
-- A retried job is older than its place in line: those that run are found apart from the others.
CREATE INDEX jobs_retried ON jobs (retried_at) WHERE retried_at IS NOT NULL AND due_at IS NOT NULL;
