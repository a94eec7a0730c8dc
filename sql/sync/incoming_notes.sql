-- incoming_notes($partial): the rows that the table notes should have.
--
-- Grain:   one row per note of the source (note_id); with $partial, source_notes are only the notes
--          since some day.
-- Columns: those of notes.
-- Rule:    an unusable note never stops a sync: it is excluded with the first reason that applies.
CREATE TABLE incoming_notes AS
WITH repeated_ids AS (
    SELECT note_id
    FROM source_notes
    GROUP BY note_id
    HAVING count(*) > 1
),

-- Only the few rows of repeated ids are sorted.
single_notes AS (
    SELECT
        *,
        FALSE AS has_several_texts
    FROM source_notes
    ANTI JOIN repeated_ids USING (note_id)
    UNION ALL
    SELECT
        n.*,
        count(DISTINCT n.text_hash) OVER (PARTITION BY n.note_id) > 1 AS has_several_texts
    FROM source_notes AS n
    SEMI JOIN repeated_ids AS r ON n.note_id = r.note_id
    QUALIFY row_number() OVER (PARTITION BY n.note_id ORDER BY n.text_hash, n.hadm_id) = 1
),

-- Of the notes in the store, the few whose reason depends on what was found before.
stored_reasons AS (
    SELECT
        note_id,
        text_hash,
        reason
    FROM store.notes
    WHERE reason IN ('no words', 'several texts under one note_id')
),

typed_notes AS (
    SELECT
        CAST(note_id AS VARCHAR) AS note_id,
        hadm_id,
        subject_id,
        source_hadm_id,
        source_subject_id,
        trim(CAST(category AS VARCHAR)) AS category,
        TRY_CAST(TRY_CAST(chartdate AS TIMESTAMP) AS DATE) AS chartdate,
        TRY_CAST(charttime AS TIMESTAMP) AS charttime,
        TRY_CAST(storetime AS TIMESTAMP) AS storetime,
        unreadable_date(chartdate)
        OR unreadable_date(charttime)
        OR unreadable_date(storetime) AS has_unreadable_date,
        -- Any value but a plain "no" counts as a flag.
        coalesce(
            flag(is_error), nullif(trim(CAST(is_error AS VARCHAR)), '') IS NOT NULL
        ) AS is_error,
        text_hash,
        CAST(n_chars AS BIGINT) AS n_chars,
        text_problem,
        has_several_texts
    FROM single_notes
),

checked_notes AS (
    SELECT
        n.note_id,
        n.hadm_id,
        coalesce(n.subject_id, a.subject_id) AS subject_id,
        n.category,
        available_at(n.storetime, n.charttime, n.chartdate) AS available_at,
        CASE
            WHEN available_at(n.storetime, n.charttime, n.chartdate) = n.storetime THEN 'storetime'
            WHEN
                n.storetime IS NULL
                AND available_at(NULL, n.charttime, n.chartdate) = n.charttime
                THEN 'charttime'
            WHEN coalesce(n.storetime, n.charttime, n.chartdate) IS NOT NULL THEN 'date'
        END AS time_basis,
        n.text_hash,
        n.n_chars,
        CASE
            WHEN n.is_error THEN 'flagged as an error'
            WHEN
                n.has_several_texts
                -- The other texts of a partial sync may be older than its first day.
                OR ($partial AND stored.reason = 'several texts under one note_id')
                THEN 'several texts under one note_id'
            WHEN n.hadm_id IS NULL THEN 'no admission'
            -- Text ids are compared too: two of them may have the same number.
            WHEN a.hadm_id IS NULL OR n.source_hadm_id <> a.source_hadm_id
                THEN 'unknown admission'
            WHEN n.subject_id <> a.subject_id OR n.source_subject_id <> a.source_subject_id
                THEN 'admission of another patient'
            WHEN n.has_unreadable_date THEN 'unreadable date'
            WHEN
                implausible_date(n.chartdate)
                OR implausible_date(n.charttime)
                OR implausible_date(n.storetime)
                THEN 'absurd date'
            WHEN coalesce(n.storetime, n.charttime, n.chartdate) IS NULL THEN 'no date'
            WHEN n.text_problem IS NOT NULL THEN n.text_problem
            -- The encoder found no words in this same text.
            WHEN stored.reason = 'no words' AND stored.text_hash = n.text_hash THEN stored.reason
        END AS reason
    FROM typed_notes AS n
    LEFT JOIN incoming_admissions AS a ON n.hadm_id = a.hadm_id
    LEFT JOIN stored_reasons AS stored ON n.note_id = stored.note_id
)

SELECT
    note_id,
    hadm_id,
    subject_id,
    category,
    available_at,
    time_basis,
    text_hash,
    n_chars,
    CASE WHEN reason IS NULL THEN 'ready' ELSE 'excluded' END AS status,
    reason
FROM checked_notes;
