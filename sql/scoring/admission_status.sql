-- admission_status($hadm_id, $encoder_id, $cutoff): can an admission be scored, and if not, why?
--
-- Grain:   one row.
-- Columns: is_known (in the source), is_predicted (at the cutoff), is_embedded.
SELECT
    EXISTS (FROM admissions WHERE hadm_id = $hadm_id) AS is_known,
    EXISTS (FROM prediction_times(cutoff := $cutoff) WHERE hadm_id = $hadm_id) AS is_predicted,
    EXISTS (
        FROM admission_embeddings
        WHERE (encoder_id, hadm_id, cutoff) = ($encoder_id, $hadm_id, $cutoff)
    ) AS is_embedded
