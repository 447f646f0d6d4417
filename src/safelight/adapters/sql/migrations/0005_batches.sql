-- Requests that were handed in as one. Their lines lie in the blob store; a feeder makes jobs of them, and moves
-- the cursor (fed_lines, fed_bytes) in the same commit.
CREATE TABLE batches (
    seq             BIGSERIAL PRIMARY KEY,
    id              TEXT   NOT NULL UNIQUE,
    request_id      TEXT   NOT NULL,
    lines           TEXT   NOT NULL,
    total           BIGINT NOT NULL,
    created_at      BIGINT NOT NULL,
    ttl_s           BIGINT NOT NULL,
    owner           TEXT,
    team            TEXT,
    webhook         TEXT,
    metadata        BYTEA,
    idempotency_key TEXT,
    fingerprint     TEXT,
    fed_lines       BIGINT NOT NULL DEFAULT 0,
    fed_bytes       BIGINT NOT NULL DEFAULT 0,
    retry_before    BIGINT,
    cancelled_at    BIGINT,
    completed_at    BIGINT,
    expires_at      BIGINT,
    CHECK ((completed_at IS NULL) = (expires_at IS NULL))
);
CREATE UNIQUE INDEX batches_idempotency ON batches (coalesce(owner, ''), idempotency_key)
    WHERE idempotency_key IS NOT NULL;
CREATE INDEX batches_open ON batches (seq) WHERE completed_at IS NULL;
CREATE INDEX batches_expiring ON batches (expires_at) WHERE expires_at IS NOT NULL;

-- Lines whose idempotency key belongs to a job of an earlier submit: they share it.
CREATE TABLE batch_shared_lines (
    batch_id        TEXT   NOT NULL,
    line            BIGINT NOT NULL,
    job_id          TEXT   NOT NULL,
    PRIMARY KEY (batch_id, line)
);

-- Counting a batch's lines reads the index alone; so does looking at how many of all batches are open.
CREATE INDEX jobs_batch_status ON jobs (batch_id, status) WHERE batch_id IS NOT NULL;
CREATE INDEX jobs_batch_open ON jobs (lane) WHERE due_at IS NOT NULL AND batch_id IS NOT NULL;
