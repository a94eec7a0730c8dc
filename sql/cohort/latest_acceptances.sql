-- latest_acceptances: which findings were accepted, by whom, and up to which count?
--
-- Grain:   one row per code and scorer (code, scorer_id): the newest acceptance.
-- Columns: code, scorer_id, finding_count, accepted_by, accepted_at.
SELECT
    code,
    scorer_id,
    finding_count,
    accepted_by,
    accepted_at
FROM accepted_findings
QUALIFY row_number() OVER (PARTITION BY code, scorer_id ORDER BY accepted_at DESC) = 1;
