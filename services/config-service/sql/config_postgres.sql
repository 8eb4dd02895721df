-- One row per item that ever existed; its row lock serialises the item's changes on all replicas.
-- Times are microseconds since the Unix epoch, UTC.
CREATE TABLE config_item (
    namespace   TEXT   NOT NULL,
    environment TEXT   NOT NULL,
    key         TEXT   NOT NULL,
    revision    BIGINT NOT NULL,
    created_at  BIGINT NOT NULL,
    PRIMARY KEY (namespace, environment, key)
);

-- Every value an item ever had. value is NULL in a tombstone. TEXT, not JSONB: a value keeps its exact spelling.
CREATE TABLE config_revision (
    namespace       TEXT   NOT NULL,
    environment     TEXT   NOT NULL,
    key             TEXT   NOT NULL,
    revision        BIGINT NOT NULL,
    kind            TEXT   NOT NULL CHECK (kind IN ('put', 'delete', 'external')),
    value           TEXT,
    description     TEXT,
    author          TEXT   NOT NULL,
    item_created_at BIGINT NOT NULL,
    created_at      BIGINT NOT NULL,
    published_index BIGINT,
    PRIMARY KEY (namespace, environment, key, revision)
);
