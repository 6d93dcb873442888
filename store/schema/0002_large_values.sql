-- Values may have megabytes: the public state of a large Group, a commit that brings
-- many devices in. SQLite's trees that hold their rows themselves (WITHOUT ROWID) read the
-- whole of every such row that they compare on the way to another key, which took half of
-- the time of large commits. So names and values lie in two trees there.

/*sqlite:
CREATE TABLE key_values (
	bucket TEXT NOT NULL,
	name   TEXT NOT NULL,
	data   BYTEA NOT NULL,
	PRIMARY KEY (bucket, name)
);

INSERT INTO key_values (bucket, name, data) SELECT bucket, name, data FROM kv;

DROP TABLE kv;

ALTER TABLE key_values RENAME TO kv;
*/
