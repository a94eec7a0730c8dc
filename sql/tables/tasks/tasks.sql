-- tasks: questions of one's own, beside those of this program.
--
-- Grain:   one row per task (name).
CREATE TABLE tasks (
    name VARCHAR NOT NULL,
    sql VARCHAR NOT NULL,
    gives_prediction_time BOOLEAN NOT NULL,
    added_at TIMESTAMP NOT NULL
);

COMMENT ON TABLE tasks IS
'Questions of one''s own, beside those of this program.
One row per task (name).';
COMMENT ON COLUMN tasks.sql IS
'A SELECT that gives hadm_id, label, reason and known_at per admission.';
COMMENT ON COLUMN tasks.gives_prediction_time IS
'Whether the SELECT also gives prediction_time; its cutoff is then task:NAME.';
COMMENT ON COLUMN tasks.added_at IS 'Local time.';
