-- Every process hears whose event was committed (LISTEN safelight_events).
CREATE FUNCTION safelight_tell_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('safelight_events', NEW.job_id);
    RETURN NULL;
END
$$;
CREATE TRIGGER safelight_tell_event AFTER INSERT ON events FOR EACH ROW EXECUTE FUNCTION safelight_tell_event();

-- The last commit of everybody who commits: whoever lost the answer to a commit finds out what became of it. (The number
-- of the transaction would not tell: after a crash another one may have got the same.)
CREATE TABLE commits (
    committer  UUID        PRIMARY KEY,
    number     BIGINT      NOT NULL,
    at         TIMESTAMPTZ NOT NULL DEFAULT now()
);
