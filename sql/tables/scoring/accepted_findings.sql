-- accepted_findings: findings of the leakage audit that somebody accepted.
--
-- Grain:   one row per acceptance (code, scorer_id, accepted_at); never updated.
CREATE TABLE accepted_findings (
    code VARCHAR NOT NULL,
    scorer_id VARCHAR,
    finding_count BIGINT,
    accepted_by VARCHAR NOT NULL,
    accepted_at TIMESTAMP NOT NULL
);

COMMENT ON TABLE accepted_findings IS
'Findings of the leakage audit that somebody accepted.
One row per acceptance (code, scorer_id, accepted_at).';
COMMENT ON COLUMN accepted_findings.code IS 'Of the finding, such as immature-labels.';
COMMENT ON COLUMN accepted_findings.scorer_id IS
'The scorer that the finding concerns; NULL for a finding of the store.';
COMMENT ON COLUMN accepted_findings.finding_count IS
'The count of the finding at that time. The acceptance does not hold for a larger one.';
COMMENT ON COLUMN accepted_findings.accepted_by IS 'User name on the machine.';
COMMENT ON COLUMN accepted_findings.accepted_at IS 'Local time.';
