-- Whom a job belongs to: the virtual key it was submitted with, and that key's team.
ALTER TABLE jobs ADD COLUMN owner TEXT;
ALTER TABLE jobs ADD COLUMN team  TEXT;

-- What has happened to a job, in order; written by the commit in which it happens, gone with the job.
CREATE TABLE events (
    seq     BIGSERIAL PRIMARY KEY,
    job_id  TEXT   NOT NULL,
    owner   TEXT,
    name    TEXT   NOT NULL,
    at      BIGINT NOT NULL,
    data    BYTEA  NOT NULL
);
CREATE INDEX events_of_a_job ON events (job_id, seq);
