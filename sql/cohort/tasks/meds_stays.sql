-- meds_stays: to which stay does each label of a MEDS file belong?
--
-- Grain:   one row per label with a stay (row_no).
-- The stay that the prediction time falls into, or the last one that ended at most 48 hours before
-- it; of several, the one that began last.
SELECT
    f.row_no,
    a.hadm_id
FROM file_labels AS f
INNER JOIN admissions AS a ON f.subject_id = a.subject_id
WHERE
    a.admittime <= f.prediction_time
    AND f.prediction_time <= coalesce(a.dischtime + INTERVAL 48 HOURS, f.prediction_time)
QUALIFY row_number() OVER (
    PARTITION BY f.row_no
    ORDER BY
        f.prediction_time <= coalesce(a.dischtime, f.prediction_time) DESC,
        a.admittime DESC,
        a.hadm_id DESC
) = 1
