-- explain_admission(scorer, hadm_id): how much does each window contribute to a score?
--
-- Grain:   one row per window that the score was computed from (note_id, window_no).
CREATE OR REPLACE MACRO explain_admission(scorer, hadm_id) AS TABLE
WITH params AS (
    SELECT
        scorer AS scorer_id,
        hadm_id AS query_hadm_id
),

averages AS (
    SELECT avg(list_inner_product(m.embedding, s.coef)) AS dot_product
    FROM scorers AS s
    INNER JOIN params ON s.scorer_id = params.scorer_id
    INNER JOIN admission_embeddings AS m ON s.encoder_id = m.encoder_id AND s.cutoff = m.cutoff
    -- Other admissions are only read for a scorer on means.
    WHERE s.aggregate = 'mean'
),

windows AS (
    SELECT
        w.note_id,
        n.category,
        w.available_at,
        w.window_no,
        s.aggregate,
        s.intercept,
        s.calibration_slope,
        list_inner_product(w.embedding, s.coef) AS dot_product,
        1 / (1 + exp(-(list_inner_product(w.embedding, s.coef) + s.intercept))) AS p,
        count(*) OVER () AS n_windows,
        count(*) OVER (PARTITION BY w.note_id) AS windows_of_note
    FROM scorers AS s
    INNER JOIN params ON s.scorer_id = params.scorer_id
    INNER JOIN admission_embeddings AS m
        ON s.encoder_id = m.encoder_id AND s.cutoff = m.cutoff AND params.query_hadm_id = m.hadm_id
    INNER JOIN embeddings AS w ON s.encoder_id = w.encoder_id AND m.hadm_id = w.hadm_id
    LEFT JOIN notes AS n ON w.note_id = n.note_id
    WHERE w.available_at <= m.prediction_time
)

SELECT
    windows.note_id,
    windows.category,
    windows.available_at,
    windows.window_no,
    windows.windows_of_note,
    CASE
        WHEN windows.aggregate = 'mean'
            THEN (windows.dot_product - averages.dot_product) / windows.n_windows
        WHEN windows.calibration_slope = 0 THEN 0
        WHEN row_number() OVER (
            ORDER BY windows.p DESC, windows.note_id ASC, windows.window_no ASC
        ) = 1
            THEN 1.5 * windows.p / (1 + windows.n_windows / 2)
        ELSE 0.5 * windows.p / (1 + windows.n_windows / 2)
    END AS contribution,
    CASE
        WHEN windows.aggregate = 'mean' THEN windows.intercept + averages.dot_product
        ELSE 0
    END AS base
FROM windows
CROSS JOIN averages
ORDER BY abs(contribution) DESC, windows.note_id ASC, windows.window_no ASC;

COMMENT ON MACRO TABLE explain_admission IS
'explain_admission(scorer, hadm_id): how much does each window contribute to a score?
One row per window that the score was computed from (note_id, window_no).
contribution, base: for a scorer on means, (coef . window - coef . average) / n in log odds, and the
log odds of the average admission; base plus all contributions are the log odds of the score, before
its limits.
For a scorer on windows, the share of the window in (Pmax + Pmean * n / 2) / (1 + n / 2), and 0;
they add up to the probability before calibration. Without a signal nothing contributes.';
