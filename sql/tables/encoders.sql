-- encoders: the exported models that embedded the notes.
--
-- Grain:   one row per encoder (encoder_id: name and 8 hex digits of the fingerprint).
CREATE TABLE encoders (
    encoder_id VARCHAR NOT NULL,
    name VARCHAR NOT NULL,
    fingerprint VARCHAR NOT NULL,
    dim INTEGER NOT NULL,
    precision VARCHAR NOT NULL,
    max_tokens INTEGER NOT NULL,
    stride INTEGER NOT NULL,
    manifest JSON NOT NULL,
    active BOOLEAN NOT NULL,
    classifier_head BLOB
);

COMMENT ON TABLE encoders IS
'The exported models that embedded the notes.
One row per encoder (encoder_id: name and 8 hex digits of the fingerprint).';
COMMENT ON COLUMN encoders.fingerprint IS 'SHA-256 of everything that determines a vector.';
COMMENT ON COLUMN encoders.dim IS 'Width of a vector.';
COMMENT ON COLUMN encoders.max_tokens IS 'Most tokens in a window.';
COMMENT ON COLUMN encoders.stride IS 'Tokens that consecutive windows share.';
COMMENT ON COLUMN encoders.manifest IS 'encoder.json of the model folder.';
COMMENT ON COLUMN encoders.active IS 'Whether commands use this encoder by default.';
COMMENT ON COLUMN encoders.classifier_head IS
'The classifier head of the checkpoint (an .npz file); NULL without one.';
