-- Every process hears that something is to be delivered (LISTEN safelight_outbox).
CREATE FUNCTION safelight_tell_outbox() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('safelight_outbox', '');
    RETURN NULL;
END
$$;
CREATE TRIGGER safelight_tell_outbox AFTER INSERT ON webhook_deliveries
    FOR EACH STATEMENT EXECUTE FUNCTION safelight_tell_outbox();
