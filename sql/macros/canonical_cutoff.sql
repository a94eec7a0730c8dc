-- canonical_cutoff(requested): what is the name under which a cutoff is stored?
--
-- Hours have no leading zeros, and 'discharge' is an alias of 'discharge+48h', when programmes of
-- transitional care act. 'task:NAME' is the prediction time of a task that gives its own.
CREATE OR REPLACE MACRO canonical_cutoff(requested) AS
CASE
    WHEN requested = 'discharge' THEN 'discharge+48h'
    WHEN regexp_full_match(requested, 'task:[a-z][a-z0-9_]*') THEN requested
    WHEN regexp_full_match(requested, '(discharge\+)?[0-9]{1,4}h')
        THEN regexp_replace(requested, '(^|\+)0*([0-9]+h)$', '\1\2')
    ELSE
        error(
            'unknown cutoff ' || coalesce(requested, 'NULL')
            || ' - use hours after admission such as 36h, or after discharge such as discharge+0h'
        )
END;

COMMENT ON MACRO canonical_cutoff IS
'canonical_cutoff(requested): what is the name under which a cutoff is stored?
36h and other hours after admission; discharge+0h and other hours after discharge; discharge, an
alias of discharge+48h; task:NAME, the prediction time of a task that gives its own.';
