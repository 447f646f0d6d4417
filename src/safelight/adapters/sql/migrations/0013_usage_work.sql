-- How jobs fared and how long calls took, beside what they cost.
ALTER TABLE usage_days ADD COLUMN failed       BIGINT NOT NULL DEFAULT 0;
ALTER TABLE usage_days ADD COLUMN work_micros  BIGINT NOT NULL DEFAULT 0;
