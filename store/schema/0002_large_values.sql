-- Values may have megabytes: the public state of a large Group, a commit that brings
-- many devices in. A tree that holds its rows itself (WITHOUT ROWID) reads the whole of
-- every such row that it compares on its way to another key, which took half of the
-- time of large commits. So names and values lie in two trees.
CREATE TABLE key_values (
	bucket TEXT /*postgres: COLLATE "C"*/ NOT NULL,
	name   TEXT /*postgres: COLLATE "C"*/ NOT NULL,
	data   BYTEA NOT NULL,
	PRIMARY KEY (bucket, name)
);

INSERT INTO key_values (bucket, name, data) SELECT bucket, name, data FROM kv;

DROP TABLE kv;

ALTER TABLE key_values RENAME TO kv;
