-- One row per item that ever existed; the place where a key's next revision is allotted.
-- Times are microseconds since the Unix epoch, UTC.
CREATE TABLE config_item (
    namespace   TEXT    NOT NULL,
    environment TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    revision    INTEGER NOT NULL,
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (namespace, environment, key)
) WITHOUT ROWID;

-- Every value an item ever had. value is NULL in a tombstone.
CREATE TABLE config_revision (
    namespace       TEXT    NOT NULL,
    environment     TEXT    NOT NULL,
    key             TEXT    NOT NULL,
    revision        INTEGER NOT NULL,
    kind            TEXT    NOT NULL CHECK (kind IN ('put', 'delete', 'external')),
    value           TEXT,
    description     TEXT,
    author          TEXT    NOT NULL,
    item_created_at INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    published_index INTEGER,
    PRIMARY KEY (namespace, environment, key, revision)
) WITHOUT ROWID;
