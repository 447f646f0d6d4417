-- Who is told of jobs. `events` are names between commas; `headers` and `secrets` are JSON, sealed.
CREATE TABLE webhook_endpoints (
    id                             TEXT   PRIMARY KEY,
    owner                          TEXT,
    name                           TEXT   NOT NULL,
    url                            TEXT   NOT NULL,
    events                         TEXT   NOT NULL,
    headers                        BYTEA  NOT NULL,
    include_response               BIGINT NOT NULL,
    include_links                  BIGINT NOT NULL,
    allow_private_network          BIGINT NOT NULL,
    disabled                       BIGINT NOT NULL,
    max_retries                    BIGINT NOT NULL,
    retry_backoff_initial_seconds  BIGINT NOT NULL,
    retry_backoff_max_seconds      BIGINT NOT NULL,
    attempt_timeout_seconds        BIGINT NOT NULL,
    max_concurrent_deliveries      BIGINT NOT NULL,
    max_response_payload_kbs       BIGINT NOT NULL,
    secrets                        BYTEA  NOT NULL,
    config_hash                    TEXT   NOT NULL,
    created_at                     BIGINT NOT NULL,
    updated_at                     BIGINT NOT NULL,
    consecutive_failures           BIGINT NOT NULL DEFAULT 0,
    last_success_at                BIGINT,
    last_failure_at                BIGINT,
    failing_since                  BIGINT,
    paused_at                      BIGINT,
    pause_reason                   TEXT
);
CREATE UNIQUE INDEX webhook_endpoints_named ON webhook_endpoints (name, coalesce(owner, ''));

-- The outbox: one row for each event that an endpoint is to hear of, written by the commit in which it happens. It is
-- due until it is delivered or given up; to claim it is to make it due later, under a lease. It outlives its job.
CREATE TABLE webhook_deliveries (
    seq          BIGSERIAL PRIMARY KEY,
    id           TEXT   NOT NULL UNIQUE,
    endpoint_id  TEXT   NOT NULL,
    job_id       TEXT   NOT NULL,
    request_id   TEXT   NOT NULL,
    event        TEXT   NOT NULL,
    created_at   BIGINT NOT NULL,
    due_at       BIGINT,
    lease        TEXT,
    attempts     BIGINT NOT NULL DEFAULT 0,
    tries        BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (endpoint_id, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX webhook_deliveries_leased ON webhook_deliveries (lease) WHERE lease IS NOT NULL;
CREATE INDEX webhook_deliveries_of_an_endpoint ON webhook_deliveries (endpoint_id, created_at);
CREATE INDEX webhook_deliveries_by_age ON webhook_deliveries (created_at);

-- What came of each attempt at a delivery.
CREATE TABLE webhook_attempts (
    seq          BIGSERIAL PRIMARY KEY,
    id           TEXT   NOT NULL UNIQUE,
    delivery_id  TEXT   NOT NULL,
    endpoint_id  TEXT   NOT NULL,
    number       BIGINT NOT NULL,
    outcome      TEXT   NOT NULL,
    status_code  BIGINT,
    error        TEXT,
    at           BIGINT NOT NULL
);
CREATE INDEX webhook_attempts_of_an_endpoint ON webhook_attempts (endpoint_id, seq);
CREATE INDEX webhook_attempts_of_a_delivery ON webhook_attempts (delivery_id);
