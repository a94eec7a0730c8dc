-- kept_cutoff(requested): under which name are the embeddings of a cutoff kept?
--
-- An error that names the kept ones where every night keeps none at this cutoff.
CREATE OR REPLACE MACRO kept_cutoff(requested) AS
CASE
    WHEN canonical_cutoff(requested) IN (SELECT k.cutoff FROM kept_cutoffs AS k)
        THEN canonical_cutoff(requested)
    ELSE
        error(
            'the store keeps no embeddings at ' || canonical_cutoff(requested)
            || ' before a scorer is trained at it - kept: '
            || (SELECT string_agg(k.cutoff, ', ' ORDER BY k.cutoff) FROM kept_cutoffs AS k)
        )
END;

COMMENT ON MACRO kept_cutoff IS
'kept_cutoff(requested): under which name are the embeddings of a cutoff kept?
An error that names the kept ones where there are none; see kept_cutoffs.';
