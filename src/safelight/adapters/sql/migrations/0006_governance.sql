-- Virtual keys, teams, customers, and provider entries that have limits: `document` holds what was said of them, as JSON.
CREATE TABLE holders (
    kind          TEXT    NOT NULL CHECK (kind IN ('key', 'team', 'customer', 'provider')),
    id            TEXT    NOT NULL,
    name          TEXT    NOT NULL,
    parent        TEXT,
    source        TEXT    NOT NULL CHECK (source IN ('settings', 'api')),
    document      BYTEA   NOT NULL,
    created_at    BIGINT  NOT NULL,
    updated_at    BIGINT  NOT NULL,
    PRIMARY KEY (kind, id),
    UNIQUE (kind, name)
);
CREATE INDEX holders_below ON holders (parent) WHERE parent IS NOT NULL;

-- What a virtual key reads like, as a keyed hash. Two at a time while a key is being changed for its next.
CREATE TABLE key_secrets (
    digest        BYTEA   PRIMARY KEY,
    key_id        TEXT    NOT NULL,
    ending        TEXT    NOT NULL,
    created_at    BIGINT  NOT NULL,
    valid_until   BIGINT
);
CREATE INDEX secrets_of_a_key ON key_secrets (key_id);

-- Every change that an administrator or the settings made. The newest number tells every process whether what it remembers still holds.
CREATE TABLE audit_log (
    seq           BIGSERIAL PRIMARY KEY,
    at            BIGINT  NOT NULL,
    actor         TEXT    NOT NULL,
    action        TEXT    NOT NULL,
    subject       TEXT    NOT NULL,
    subject_id    TEXT    NOT NULL,
    detail        BYTEA   NOT NULL
);

-- What is counted for whom. Money that is held belongs to jobs that have not ended.
CREATE TABLE meters (
    id            BIGSERIAL PRIMARY KEY,
    kind          TEXT    NOT NULL,
    holder_id     TEXT    NOT NULL,
    unit          TEXT    NOT NULL CHECK (unit IN ('usd', 'requests', 'images')),
    period        TEXT    NOT NULL,
    calendar      BIGINT  NOT NULL,
    most          BIGINT  NOT NULL,
    held          BIGINT  NOT NULL DEFAULT 0 CHECK (held >= 0),
    UNIQUE (kind, holder_id, unit, period, calendar)
);
CREATE TABLE meter_slots (
    meter_id      BIGINT  NOT NULL,
    slot          BIGINT  NOT NULL,
    used          BIGINT  NOT NULL,
    PRIMARY KEY (meter_id, slot)
);
CREATE TABLE holds (
    job_id        TEXT    NOT NULL,
    meter_id      BIGINT  NOT NULL,
    amount        BIGINT  NOT NULL CHECK (amount >= 0),
    PRIMARY KEY (job_id, meter_id)
);

-- The double-entry ledger of every budget: each row moves an amount from one account to another, so all always add up to nothing.
CREATE TABLE ledger (
    seq           BIGSERIAL PRIMARY KEY,
    at            BIGINT  NOT NULL,
    meter_id      BIGINT  NOT NULL,
    job_id        TEXT    NOT NULL,
    debit         TEXT    NOT NULL CHECK (debit IN ('free', 'held')),
    credit        TEXT    NOT NULL CHECK (credit IN ('free', 'held', 'spent')),
    amount        BIGINT  NOT NULL CHECK (amount > 0),
    estimated     BIGINT  NOT NULL DEFAULT 0,
    CHECK (debit <> credit)
);
CREATE INDEX ledger_of_a_meter ON ledger (meter_id, seq);

-- How a job stands in line, what it may use, and what it is taken to cost where money is held.
ALTER TABLE jobs ADD COLUMN priority      TEXT   NOT NULL DEFAULT 'interactive';
ALTER TABLE jobs ADD COLUMN stride        BIGINT NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN max_running   BIGINT;
ALTER TABLE jobs ADD COLUMN rank          BIGINT;
ALTER TABLE jobs ADD COLUMN provider_keys BYTEA;
ALTER TABLE jobs ADD COLUMN estimates     BYTEA;
CREATE INDEX jobs_at_work_of_a_key ON jobs (owner) WHERE status = 'processing' AND owner IS NOT NULL;
CREATE INDEX jobs_in_line ON jobs (lane, rank) WHERE status = 'pending' AND rank IS NOT NULL;
CREATE INDEX jobs_waiting_of_a_key ON jobs (owner) WHERE status = 'pending' AND owner IS NOT NULL;

-- What calls cost, to be summed by day, key, team, provider and model; kept when the jobs are gone.
ALTER TABLE attempts ADD COLUMN images      BIGINT NOT NULL DEFAULT 0;
ALTER TABLE attempts ADD COLUMN cost_micros BIGINT;
-- `day` counts from 1970.
CREATE TABLE usage_days (
    day           BIGINT  NOT NULL,
    owner         TEXT    NOT NULL,
    team          TEXT    NOT NULL,
    provider      TEXT    NOT NULL,
    model         TEXT    NOT NULL,
    jobs          BIGINT  NOT NULL,
    calls         BIGINT  NOT NULL,
    images        BIGINT  NOT NULL,
    cost_micros   BIGINT  NOT NULL,
    unpriced      BIGINT  NOT NULL,
    PRIMARY KEY (day, owner, team, provider, model)
);

-- Keys of providers that an administrator added, encrypted; and prices.
CREATE TABLE provider_keys (
    provider      TEXT    NOT NULL,
    name          TEXT    NOT NULL,
    sealed        BYTEA   NOT NULL,
    document      BYTEA   NOT NULL,
    created_at    BIGINT  NOT NULL,
    updated_at    BIGINT  NOT NULL,
    PRIMARY KEY (provider, name)
);
CREATE TABLE prices (
    provider      TEXT    NOT NULL,
    model         TEXT    NOT NULL,
    document      BYTEA   NOT NULL,
    updated_at    BIGINT  NOT NULL,
    PRIMARY KEY (provider, model)
);
