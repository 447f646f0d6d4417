-- How far the last attempt of a job is, from 0 to 1, where its provider tells.
ALTER TABLE jobs ADD COLUMN progress DOUBLE PRECISION;
