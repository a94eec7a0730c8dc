-- nightly_log_odds: how far the notes of each night lie from those of a scorer's training period.
--
-- Grain:   one row per night, scorer, stay and note category
--          (run_id, scorer_id, hadm_id, category).
CREATE TABLE nightly_log_odds (
    run_id INTEGER NOT NULL,
    scorer_id VARCHAR NOT NULL,
    hadm_id BIGINT NOT NULL,
    subject_id BIGINT NOT NULL,
    category VARCHAR NOT NULL,
    n_notes INTEGER NOT NULL,
    shift DOUBLE
);

COMMENT ON TABLE nightly_log_odds IS
'How far the notes of each night lie from those of a scorer''s training period.
One row per night, scorer, stay and note category (run_id, scorer_id, hadm_id, category).';
COMMENT ON COLUMN nightly_log_odds.n_notes IS
'Embedded that night. Of a cutoff in hours after admission, notes known later do not count.';
COMMENT ON COLUMN nightly_log_odds.shift IS
'Mean distance of their log odds from reference_log_odds.mean, in units of its spread. NULL for a
category that the reference lacks.';
