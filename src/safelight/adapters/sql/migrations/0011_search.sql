-- Jobs are listed with the newest first, by `created_at` and then `seq`. Each index costs every job that it holds: those for
-- rare things hold the rare ones alone.
DROP INDEX jobs_open;
CREATE INDEX jobs_open ON jobs (created_at, seq) WHERE due_at IS NOT NULL;
CREATE INDEX jobs_by_time ON jobs (created_at, seq);
CREATE INDEX jobs_by_model ON jobs (model, created_at, seq);
-- The lane changes while a job runs, so it is written once, at the end; of those that run there are few.
CREATE INDEX jobs_by_provider ON jobs (lane, created_at, seq) WHERE due_at IS NULL;
CREATE INDEX jobs_by_type ON jobs (request_type, created_at, seq) WHERE request_type <> 'image_generation';
CREATE INDEX jobs_failed ON jobs (created_at, seq) WHERE error_code IS NOT NULL;
CREATE INDEX jobs_by_error ON jobs (error_code, created_at, seq) WHERE error_code IS NOT NULL;
CREATE INDEX jobs_by_owner ON jobs (owner, created_at, seq) WHERE owner IS NOT NULL;
CREATE INDEX jobs_by_team ON jobs (team, created_at, seq) WHERE team IS NOT NULL;
-- Counting reads this index alone.
DROP INDEX jobs_expiring;
CREATE INDEX jobs_expiring ON jobs (expires_at, status, owner) WHERE expires_at IS NOT NULL;
-- A key is one caller's; whoever was asked for no virtual key shares theirs with all others who were not.
DROP INDEX jobs_idempotency;
CREATE UNIQUE INDEX jobs_idempotency ON jobs (idempotency_key, coalesce(owner, '')) WHERE idempotency_key IS NOT NULL;

-- What callers call their jobs, to search by.
CREATE TABLE job_labels (
    name    TEXT   NOT NULL,
    value   TEXT   NOT NULL,
    made_at BIGINT NOT NULL,
    job_seq BIGINT NOT NULL REFERENCES jobs (seq) ON DELETE CASCADE,
    PRIMARY KEY (name, value, made_at, job_seq)
) /*sqlite WITHOUT ROWID*/;
CREATE INDEX labels_of_a_job ON job_labels (job_seq);
