-- Every process hears whose event was committed (LISTEN safelight_events).
CREATE FUNCTION safelight_tell_event() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('safelight_events', NEW.job_id);
    RETURN NULL;
END
$$;
CREATE TRIGGER safelight_tell_event AFTER INSERT ON events FOR EACH ROW EXECUTE FUNCTION safelight_tell_event();
