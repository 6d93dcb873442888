-- The first schema. One text for SQLite and PostgreSQL: the types BIGINT, TEXT
-- and BYTEA mean the same on both. A comment that names an engine, as after the
-- columns below, holds a clause for that engine alone (see migrate.go):
--   COLLATE "C"    makes PostgreSQL order text by octets, as SQLite does;
--   WITHOUT ROWID  makes SQLite keep the rows in the primary key's own tree, as
--                  two trees per table would double the pages that a commit writes.
-- Times are microseconds since 1970. URIs of rooms stand once, in rooms.

CREATE TABLE settings (
	name  TEXT NOT NULL PRIMARY KEY,
	value TEXT NOT NULL
) /*sqlite: WITHOUT ROWID*/;

CREATE TABLE counters (
	name  TEXT NOT NULL PRIMARY KEY,
	value BIGINT NOT NULL
) /*sqlite: WITHOUT ROWID*/;

INSERT INTO counters (name, value) VALUES ('item', 0);

CREATE TABLE rooms (
	room         BIGINT NOT NULL PRIMARY KEY,
	uri          TEXT /*postgres: COLLATE "C"*/ NOT NULL UNIQUE,
	kind         BIGINT NOT NULL,
	content_type TEXT NOT NULL,
	direct       BIGINT NOT NULL,
	name         TEXT NOT NULL,
	topic        TEXT NOT NULL,
	topic_by     TEXT NOT NULL,
	topic_at     BIGINT NOT NULL,
	policy       BYTEA NOT NULL,
	created      BIGINT NOT NULL,
	founder      TEXT NOT NULL
);

CREATE TABLE members (
	room    BIGINT NOT NULL REFERENCES rooms (room),
	member  TEXT /*postgres: COLLATE "C"*/ NOT NULL,
	via     TEXT /*postgres: COLLATE "C"*/ NOT NULL,
	role    BIGINT NOT NULL,
	joined  BIGINT NOT NULL,
	invited BIGINT NOT NULL,
	profile BYTEA NOT NULL,
	since   BIGINT NOT NULL,
	PRIMARY KEY (room, member)
) /*sqlite: WITHOUT ROWID*/;

CREATE INDEX members_by_user ON members (member, room);
CREATE INDEX members_by_via ON members (via, room) WHERE joined = 1;

CREATE TABLE bans (
	room BIGINT NOT NULL REFERENCES rooms (room),
	list BIGINT NOT NULL,
	mask TEXT /*postgres: COLLATE "C"*/ NOT NULL,
	by   TEXT NOT NULL,
	at   BIGINT NOT NULL,
	PRIMARY KEY (room, list, mask)
) /*sqlite: WITHOUT ROWID*/;

-- No foreign key here: the room key always comes from rooms, in the same
-- transaction, and this is the one insert that every message pays for.
CREATE TABLE events (
	room     BIGINT NOT NULL,
	seq      BIGINT NOT NULL,
	accepted BIGINT NOT NULL,
	record   BYTEA NOT NULL,
	PRIMARY KEY (room, seq)
) /*sqlite: WITHOUT ROWID*/;

CREATE TABLE origins (
	network TEXT /*postgres: COLLATE "C"*/ NOT NULL,
	id      TEXT /*postgres: COLLATE "C"*/ NOT NULL,
	room    BIGINT NOT NULL,
	seq     BIGINT NOT NULL,
	PRIMARY KEY (network, id)
) /*sqlite: WITHOUT ROWID*/;

CREATE TABLE links (
	id      TEXT /*postgres: COLLATE "C"*/ NOT NULL PRIMARY KEY,
	room    BIGINT NOT NULL REFERENCES rooms (room),
	network TEXT NOT NULL,
	place   TEXT NOT NULL,
	owner   TEXT NOT NULL,
	mode    BIGINT NOT NULL,
	created BIGINT NOT NULL,
	paused  TEXT NOT NULL,
	holder  TEXT NOT NULL,
	until   BIGINT NOT NULL
);

CREATE TABLE cursors (
	link      TEXT /*postgres: COLLATE "C"*/ NOT NULL REFERENCES links (id) ON DELETE CASCADE,
	lane      BIGINT NOT NULL,
	seq       BIGINT NOT NULL,
	delivered BIGINT NOT NULL,
	refused   BIGINT NOT NULL,
	expired   BIGINT NOT NULL,
	skipped   BIGINT NOT NULL,
	PRIMARY KEY (link, lane)
) /*sqlite: WITHOUT ROWID*/;

-- "foreign" is a word of SQL: the foreign ID stands in foreign_id.
CREATE TABLE placed (
	link       TEXT /*postgres: COLLATE "C"*/ NOT NULL REFERENCES links (id) ON DELETE CASCADE,
	event      BYTEA NOT NULL,
	part       BIGINT NOT NULL,
	foreign_id TEXT /*postgres: COLLATE "C"*/ NOT NULL,
	PRIMARY KEY (link, event, part),
	UNIQUE (link, foreign_id)
) /*sqlite: WITHOUT ROWID*/;

CREATE TABLE items (
	id        BIGINT NOT NULL PRIMARY KEY,
	recipient TEXT /*postgres: COLLATE "C"*/ NOT NULL,
	sender    TEXT NOT NULL,
	room      TEXT NOT NULL,
	kind      TEXT NOT NULL,
	body      TEXT NOT NULL,
	at        BIGINT NOT NULL
);

CREATE INDEX items_by_recipient ON items (recipient, id);

CREATE TABLE accounts (
	fold     TEXT /*postgres: COLLATE "C"*/ NOT NULL PRIMARY KEY,
	name     TEXT NOT NULL,
	member   TEXT NOT NULL,
	created  BIGINT NOT NULL,
	argon2id TEXT NOT NULL,
	scram    TEXT NOT NULL,
	certs    TEXT NOT NULL, -- hex, a blank between two
	tokens   TEXT NOT NULL, -- likewise
	disabled BIGINT NOT NULL
) /*sqlite: WITHOUT ROWID*/;

CREATE TABLE kv (
	bucket TEXT /*postgres: COLLATE "C"*/ NOT NULL,
	name   TEXT /*postgres: COLLATE "C"*/ NOT NULL,
	data   BYTEA NOT NULL,
	PRIMARY KEY (bucket, name)
) /*sqlite: WITHOUT ROWID*/;
