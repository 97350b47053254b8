-- -1 low, 0 normal, 1 high.
ALTER TABLE jobs ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
-- Whether the queue starts the job again by itself when it is interrupted, when it will, and what it tried.
ALTER TABLE jobs ADD COLUMN restarts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN restart TEXT;
ALTER TABLE jobs ADD COLUMN attempts TEXT NOT NULL DEFAULT '{}';
-- A deleted job: shown to nobody, and gone once its points are, which takes a while.
ALTER TABLE jobs ADD COLUMN doomed INTEGER NOT NULL DEFAULT 0;
DROP INDEX jobs_by_place;
CREATE INDEX jobs_by_turn ON jobs (state, priority DESC, place);
CREATE INDEX jobs_to_restart ON jobs (state) WHERE restart IS NOT NULL;
-- Evaluations are few among many points.
CREATE INDEX evaluations ON metrics (job, step) WHERE kind = 'eval';

CREATE TABLE settings (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- What the webhook still has to be told.
CREATE TABLE deliveries (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    body    TEXT NOT NULL,
    tries   INTEGER NOT NULL DEFAULT 0,
    -- Seconds since 1970.
    next_at REAL NOT NULL,
    made_at REAL NOT NULL
) STRICT;
