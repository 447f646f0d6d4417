-- Providers that the operator has paused, or drains. One that is not here is on.
CREATE TABLE provider_switches (
    provider    TEXT   PRIMARY KEY,
    switch      TEXT   NOT NULL CHECK (switch IN ('paused', 'draining')),
    changed_at  BIGINT NOT NULL
) /*sqlite WITHOUT ROWID*/;
