-- Times are microseconds since 1970 UTC; money is micro-dollars; request, handle and outcome columns hold JSON.
CREATE TABLE jobs (
    seq           INTEGER PRIMARY KEY AUTOINCREMENT,
    id            TEXT    NOT NULL UNIQUE,
    request_id    TEXT    NOT NULL,
    request_type  TEXT    NOT NULL,
    status        TEXT    NOT NULL CHECK (status IN ('pending', 'processing', 'completed', 'failed')),
    lane          TEXT    NOT NULL,
    model         TEXT    NOT NULL,
    request       BLOB    NOT NULL,
    created_at    INTEGER NOT NULL,
    ttl_s         INTEGER NOT NULL,
    due_at        INTEGER,
    started_at    INTEGER,
    completed_at  INTEGER,
    expires_at    INTEGER,
    attempts      INTEGER NOT NULL DEFAULT 0,
    result        BLOB,
    error         BLOB,
    charged       TEXT    NOT NULL DEFAULT 'no',
    cost_micros   INTEGER,
    -- A job that has not ended is always due some time; one that has ended always expires.
    CHECK ((status IN ('completed', 'failed')) = (due_at IS NULL)),
    CHECK ((status IN ('completed', 'failed')) = (expires_at IS NOT NULL))
);
CREATE INDEX jobs_open ON jobs (seq) WHERE due_at IS NOT NULL;
CREATE INDEX jobs_expiring ON jobs (expires_at) WHERE expires_at IS NOT NULL;

-- The ledger: one row a try, written before any byte goes upstream.
CREATE TABLE attempts (
    job_id        TEXT    NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    number        INTEGER NOT NULL,
    route         INTEGER NOT NULL,
    provider      TEXT    NOT NULL,
    model         TEXT    NOT NULL,
    key_name      TEXT,
    n             INTEGER NOT NULL,
    state         TEXT    NOT NULL CHECK (state IN ('started', 'accepted', 'succeeded', 'failed', 'unknown')),
    started_at    INTEGER NOT NULL,
    ended_at      INTEGER,
    handle        TEXT,
    error_class   TEXT,
    error         BLOB,
    retry_at      INTEGER,
    charged       TEXT,
    production    BLOB,
    PRIMARY KEY (job_id, number)
) WITHOUT ROWID;

-- Facts about this installation that every process shares, such as the key that signs links.
CREATE TABLE installation (
    name          TEXT    PRIMARY KEY,
    value         BLOB    NOT NULL
) WITHOUT ROWID;
