-- notes: the notes of the source, without their text.
--
-- Grain:   one row per note (note_id).
CREATE TABLE notes (
    note_id VARCHAR NOT NULL,
    hadm_id BIGINT,
    subject_id BIGINT,
    category VARCHAR,
    available_at TIMESTAMP,
    time_basis VARCHAR,
    text_hash VARCHAR,
    n_chars BIGINT,
    status VARCHAR NOT NULL CHECK (status IN ('ready', 'excluded')),
    reason VARCHAR CHECK ((reason IS NULL) = (status = 'ready'))
);

COMMENT ON TABLE notes IS
'The notes of the source, without their text.
One row per note (note_id).';
COMMENT ON COLUMN notes.available_at IS 'When the note was known.';
COMMENT ON COLUMN notes.time_basis IS
'Where available_at comes from: storetime, charttime or date.';
COMMENT ON COLUMN notes.text_hash IS 'MD5 of the text.';
COMMENT ON COLUMN notes.n_chars IS 'Length of the text.';
COMMENT ON COLUMN notes.status IS 'ready, or excluded with a reason.';
