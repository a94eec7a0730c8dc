-- similar_admissions(hadm_id, n := 10, cutoff := '72h'): which other stays have similar notes?
--
-- Grain:   one row per neighbour, nearest first; never the same patient.
CREATE OR REPLACE MACRO similar_admissions(hadm_id, n := 10, cutoff := '72h') AS TABLE
WITH params AS (
    SELECT
        hadm_id AS query_hadm_id,
        kept_cutoff(cutoff) AS cutoff_name
),

means AS (
    SELECT
        m.hadm_id,
        a.subject_id,
        m.embedding
    FROM admission_embeddings AS m
    INNER JOIN encoders AS e ON m.encoder_id = e.encoder_id AND e.active
    INNER JOIN params ON m.cutoff = params.cutoff_name
    INNER JOIN admissions AS a ON m.hadm_id = a.hadm_id
),

query_admission AS (
    SELECT
        means.subject_id,
        means.embedding
    FROM means
    INNER JOIN params ON means.hadm_id = params.query_hadm_id
)

SELECT
    means.hadm_id,
    means.subject_id,
    list_cosine_similarity(means.embedding, query_admission.embedding) AS similarity
FROM means
INNER JOIN query_admission ON means.subject_id <> query_admission.subject_id
ORDER BY similarity DESC, means.hadm_id ASC
LIMIT n;

COMMENT ON MACRO TABLE similar_admissions IS
'similar_admissions(hadm_id, n := 10, cutoff := ''72h''): which other stays have similar notes?
One row per neighbour, nearest first; never the same patient.
similarity: cosine of the means by the active encoder, exact.';
