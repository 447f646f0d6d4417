-- Times are microseconds since 1970 UTC; money is micro-dollars; request, handle and outcome columns hold JSON.
CREATE TABLE jobs (
    seq           BIGSERIAL PRIMARY KEY,
    id            TEXT    NOT NULL UNIQUE,
    request_id    TEXT    NOT NULL,
    request_type  TEXT    NOT NULL,
    status        TEXT    NOT NULL CHECK (status IN ('pending', 'processing', 'completed', 'failed')),
    lane          TEXT    NOT NULL,
    model         TEXT    NOT NULL,
    request       BYTEA   NOT NULL,
    created_at    BIGINT  NOT NULL,
    ttl_s         BIGINT  NOT NULL,
    due_at        BIGINT,
    started_at    BIGINT,
    completed_at  BIGINT,
    expires_at    BIGINT,
    attempts      BIGINT  NOT NULL DEFAULT 0,
    result        BYTEA,
    error         BYTEA,
    charged       TEXT    NOT NULL DEFAULT 'no',
    cost_micros   BIGINT,
    -- A job that has not ended is always due some time; one that has ended always expires.
    CHECK ((status IN ('completed', 'failed')) = (due_at IS NULL)),
    CHECK ((status IN ('completed', 'failed')) = (expires_at IS NOT NULL))
);
CREATE INDEX jobs_open ON jobs (seq) WHERE due_at IS NOT NULL;
CREATE INDEX jobs_expiring ON jobs (expires_at) WHERE expires_at IS NOT NULL;

-- The ledger: one row a try, written before any byte goes upstream.
CREATE TABLE attempts (
    job_id        TEXT    NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    number        BIGINT  NOT NULL,
    route         BIGINT  NOT NULL,
    provider      TEXT    NOT NULL,
    model         TEXT    NOT NULL,
    key_name      TEXT,
    n             BIGINT  NOT NULL,
    state         TEXT    NOT NULL CHECK (state IN ('started', 'accepted', 'succeeded', 'failed', 'unknown')),
    started_at    BIGINT  NOT NULL,
    ended_at      BIGINT,
    handle        TEXT,
    error_class   TEXT,
    error         BYTEA,
    retry_at      BIGINT,
    charged       TEXT,
    production    BYTEA,
    PRIMARY KEY (job_id, number)
) /*sqlite WITHOUT ROWID*/;

-- Facts about this installation that every process shares, such as the key that signs links.
CREATE TABLE installation (
    name          TEXT    PRIMARY KEY,
    value         BYTEA   NOT NULL
) /*sqlite WITHOUT ROWID*/;
