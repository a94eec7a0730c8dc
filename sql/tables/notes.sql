-- notes: the index of the source's notes; never their text.
--
-- Grain:   one row per note of the source (note_id).
-- Columns: available_at (when the note was known), time_basis (storetime, charttime or date),
--          text_hash (md5 of the text), n_chars (length of the text),
--          status (ready, or excluded with a reason).
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
