-- similar_admissions(hadm_id, n := 10, cutoff := '72h', vector := NULL): which other stays have
-- similar notes?
--
-- Grain:   one row per neighbour, nearest first; never the same patient.
-- Vector:  with hadm_id NULL, that of a text: all stays are compared with it.
-- Rule:    cosine of mean-centred vectors. Vectors of a BERT lie in a narrow cone, so that plain
--          cosines are all near 1. The centre is the mean over all admissions, or over 1,000 of
--          them, always the same: over a million it would take longer than all else. The law of
--          cosines gives the angle of two centred vectors by three distances; an inner product
--          would lose it to rounding.
CREATE OR REPLACE MACRO similar_admissions(
    hadm_id, n := 10, cutoff := '72h', vector := NULL
) AS TABLE
WITH params AS (
    SELECT
        hadm_id AS query_hadm_id,
        kept_cutoff(cutoff) AS cutoff_name,
        CAST(vector AS FLOAT[]) AS query_vector
),

means AS NOT MATERIALIZED (
    SELECT
        m.hadm_id,
        m.embedding
    FROM admission_embeddings AS m
    INNER JOIN encoders AS e ON m.encoder_id = e.encoder_id AND e.active
    INNER JOIN params ON m.cutoff = params.cutoff_name
),

sampled_stays AS (
    SELECT means.hadm_id
    FROM means
    ORDER BY hash(means.hadm_id), means.hadm_id
    LIMIT 1000
),

elements AS (
    SELECT
        unnest(means.embedding) AS element,
        generate_subscripts(means.embedding, 1) AS position
    FROM means
    SEMI JOIN sampled_stays ON means.hadm_id = sampled_stays.hadm_id
),

element_means AS (
    SELECT
        position,
        CAST(avg(element) AS FLOAT) AS element
    FROM elements
    GROUP BY position
),

centres AS (
    SELECT list(element ORDER BY position) AS centre
    FROM element_means
),

query_vectors AS (
    SELECT
        a.subject_id,
        means.embedding
    FROM means
    INNER JOIN params ON means.hadm_id = params.query_hadm_id
    INNER JOIN admissions AS a ON means.hadm_id = a.hadm_id
    UNION ALL
    SELECT
        NULL AS subject_id,
        query_vector AS embedding
    FROM params
    WHERE query_hadm_id IS NULL AND query_vector IS NOT NULL
),

query_admission AS (
    SELECT
        q.subject_id,
        q.embedding,
        centres.centre,
        list_distance(q.embedding, centres.centre) AS to_centre
    FROM query_vectors AS q
    CROSS JOIN centres
),

distances AS (
    SELECT
        means.hadm_id,
        list_distance(means.embedding, q.embedding) AS to_query,
        list_distance(means.embedding, q.centre) AS to_centre
    FROM means
    CROSS JOIN query_admission AS q
)

SELECT
    d.hadm_id,
    a.subject_id,
    coalesce(
        (d.to_centre ** 2 + q.to_centre ** 2 - d.to_query ** 2)
        / nullif(2 * d.to_centre * q.to_centre, 0),
        0
    ) AS similarity
FROM distances AS d
INNER JOIN admissions AS a ON d.hadm_id = a.hadm_id
INNER JOIN query_admission AS q ON a.subject_id IS DISTINCT FROM q.subject_id
ORDER BY similarity DESC, d.hadm_id ASC
LIMIT n;

COMMENT ON MACRO TABLE similar_admissions IS
'similar_admissions(hadm_id, n := 10, cutoff := ''72h'', vector := NULL): which other stays have
similar notes?
One row per neighbour, nearest first; never the same patient.
vector: with hadm_id NULL, what the stays are compared with, such as the vector of a text.
similarity: cosine of the admissions'' vectors by the active encoder, mean-centred over all of them
(of more than 1,000 over 1,000, always the same).';
