-- training_set(encoder := NULL, cutoff := '72h', horizon_days := 30, task :=
-- 'readmission'): what is a scorer fitted on?
--
-- Grain:   one row per admission with a mature label and a known note (hadm_id).
CREATE OR REPLACE MACRO training_set(
    encoder := NULL, cutoff := '72h', horizon_days := 30, task := 'readmission'
) AS TABLE
WITH params AS (
    SELECT
        CASE
            WHEN encoder IS NULL THEN (SELECT e.encoder_id FROM encoders AS e WHERE e.active)
            WHEN encoder IN (SELECT e.encoder_id FROM encoders AS e) THEN encoder
            ELSE error(
                'unknown encoder ' || encoder || ' - known: ' || coalesce(
                    (
                        SELECT string_agg(e.encoder_id, ', ' ORDER BY e.encoder_id)
                        FROM encoders AS e
                    ),
                    'none'
                )
            )
        END AS encoder_id,
        kept_cutoff(
            CASE
                WHEN task IN (SELECT t.name FROM tasks AS t WHERE t.gives_prediction_time)
                    THEN 'task:' || task
                ELSE cutoff
            END
        ) AS cutoff_name
)

SELECT
    m.hadm_id,
    l.subject_id,
    patient_split(l.subject_id) AS split,
    l.label,
    m.embedding
FROM task_labels(task := task, horizon_days := horizon_days) AS l
INNER JOIN admission_embeddings AS m ON l.hadm_id = m.hadm_id
INNER JOIN params ON m.encoder_id = params.encoder_id AND m.cutoff = params.cutoff_name
WHERE l.label IS NOT NULL AND l.mature
UNION ALL
-- No row, but an unknown name is an error though there are no embeddings.
SELECT
    NULL AS hadm_id,
    NULL AS subject_id,
    NULL AS split,
    NULL AS label,
    NULL AS embedding
FROM params
WHERE concat(encoder_id, cutoff_name) = '';

COMMENT ON MACRO TABLE training_set IS
'training_set(encoder := NULL, cutoff := ''72h'', horizon_days := 30, task :=
''readmission''): what is a scorer fitted on?
One row per admission with a mature label and a known note (hadm_id).
encoder: the active one by default. horizon_days, task: see task_labels.
cutoff: one of kept_cutoffs; a task that gives its prediction times is read at these.
split: train, valid or test, by patient.';
