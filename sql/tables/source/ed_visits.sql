-- ed_visits: visits to the emergency department, where the source records them.
--
-- Grain:   one row per patient and beginning of a visit (subject_id, intime).
CREATE TABLE ed_visits (
    subject_id BIGINT NOT NULL,
    hadm_id BIGINT,
    intime TIMESTAMP NOT NULL,
    outtime TIMESTAMP
);

COMMENT ON TABLE ed_visits IS
'Visits to the emergency department, where the source records them.
One row per patient and beginning of a visit (subject_id, intime).';
COMMENT ON COLUMN ed_visits.hadm_id IS 'The stay that the visit led to; NULL where there is none.';
