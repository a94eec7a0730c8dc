-- encoders: the models whose vectors this store holds.
--
-- Grain:   one row per exported model (encoder_id: its name and 8 hex digits of its fingerprint).
-- Columns: fingerprint (SHA-256 of all that decides a vector), dim (width of a vector), max_tokens
--          and stride (tokens), manifest (the model folder's encoder.json), active (the
--          default of commands), classifier_head (the checkpoint's classification head, as .npz;
--          NULL if it had none).
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
