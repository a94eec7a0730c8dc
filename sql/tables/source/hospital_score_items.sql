-- hospital_score_items: what the HOSPITAL score needs beside the stays, where the source gives it.
--
-- Grain:   one row per stay (hadm_id).
CREATE TABLE hospital_score_items (
    hadm_id BIGINT NOT NULL,
    subject_id BIGINT NOT NULL,
    hemoglobin DOUBLE,
    sodium DOUBLE,
    oncology_service BOOLEAN,
    had_procedure BOOLEAN
);

COMMENT ON TABLE hospital_score_items IS
'What the HOSPITAL score needs beside the stays, where the source gives it.
One row per stay (hadm_id).';
COMMENT ON COLUMN hospital_score_items.hemoglobin IS 'The last of the stay, in g/dL.';
COMMENT ON COLUMN hospital_score_items.sodium IS 'The last of the stay, in mmol/L.';
COMMENT ON COLUMN hospital_score_items.oncology_service IS
'Whether the patient was discharged from an oncology service.';
COMMENT ON COLUMN hospital_score_items.had_procedure IS
'Whether a procedure of the stay has an ICD code.';
