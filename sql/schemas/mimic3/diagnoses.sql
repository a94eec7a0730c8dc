-- The canonical columns of diagnoses, from MIMIC-III.
--
-- Grain:   one row per stay and rank of a code (hadm_id, seq_num).
SELECT
    d.hadm_id,
    d.subject_id,
    'ICD9CM' AS vocabulary,
    d.icd9_code AS code
FROM diagnoses_icd d
