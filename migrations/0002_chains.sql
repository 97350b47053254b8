-- The job that must have succeeded before this one begins.
ALTER TABLE jobs ADD COLUMN after TEXT;
