-- The canonical columns of diagnoses, from MIMIC-IV.
--
-- Grain:   one row per stay and rank of a code (hadm_id, seq_num).
SELECT
    d.hadm_id,
    d.subject_id,
    CASE
        WHEN CAST(d.icd_version AS DECIMAL(4, 0)) = 9 THEN 'ICD9CM'
        WHEN CAST(d.icd_version AS DECIMAL(4, 0)) = 10 THEN 'ICD10CM'
    END AS vocabulary,
    d.icd_code AS code
FROM diagnoses_icd d
