-- Jobs and what is known of them. An index over runs/ID/{spec.json, events.jsonl}: it can be made again from there.
CREATE TABLE jobs (
    id          TEXT PRIMARY KEY,
    kind        TEXT NOT NULL,
    state       TEXT NOT NULL,
    -- Order in the queue; a job that is queued again gets a new place at the end.
    place       INTEGER NOT NULL,
    created_at  REAL NOT NULL,
    started_at  REAL,
    finished_at REAL,
    config      TEXT NOT NULL,
    progress    TEXT NOT NULL,
    problem     TEXT,
    plan        TEXT,
    summary     TEXT NOT NULL,
    artifact    TEXT,
    -- The worker that last said `started`, and its start time in clock ticks since boot, so that a reused pid is never signalled.
    pid         INTEGER,
    pid_start   INTEGER,
    -- Bytes of events.jsonl that are in this database; written in the same transaction as what they say.
    cursor      INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX jobs_by_age ON jobs (created_at DESC, id DESC);
CREATE INDEX jobs_by_place ON jobs (state, place);

-- One optimizer step (kind 'train') or evaluation (kind 'eval'). The key keeps a line that is read twice from counting twice.
CREATE TABLE metrics (
    job   TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    step  INTEGER NOT NULL,
    kind  TEXT NOT NULL,
    epoch REAL NOT NULL,
    time  REAL NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (job, step, kind)
) STRICT, WITHOUT ROWID;

CREATE TABLE checkpoints (
    job   TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    name  TEXT NOT NULL,
    step  INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (job, name)
) STRICT, WITHOUT ROWID;

-- What pages were told, for those that come back. Old rows are removed.
CREATE TABLE feed (
    seq  INTEGER PRIMARY KEY AUTOINCREMENT,
    body TEXT NOT NULL
) STRICT;
