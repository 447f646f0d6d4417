-- What callers may say of a job besides the request, and what they may do with it later.
ALTER TABLE jobs ADD COLUMN earlier_attempts BIGINT NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN cancelled_at     BIGINT;
ALTER TABLE jobs ADD COLUMN webhook          TEXT;
ALTER TABLE jobs ADD COLUMN metadata         BYTEA;
ALTER TABLE jobs ADD COLUMN idempotency_key  TEXT;
ALTER TABLE jobs ADD COLUMN fingerprint      TEXT;
ALTER TABLE jobs ADD COLUMN batch_id         TEXT;
ALTER TABLE jobs ADD COLUMN batch_line       BIGINT;
ALTER TABLE jobs ADD COLUMN error_code       TEXT;
CREATE UNIQUE INDEX jobs_idempotency ON jobs (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE UNIQUE INDEX jobs_batch ON jobs (batch_id, batch_line) WHERE batch_id IS NOT NULL;
