-- Conversations that are kept. The body is what the page sees of one: settings and messages, as JSON.
CREATE TABLE sessions (
    id         TEXT PRIMARY KEY,
    title      TEXT NOT NULL,
    -- Seconds since 1970.
    created_at REAL NOT NULL,
    changed_at REAL NOT NULL,
    messages   INTEGER NOT NULL,
    body       TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_by_change ON sessions (changed_at DESC);
