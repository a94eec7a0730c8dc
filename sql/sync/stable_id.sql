-- stable_id(source_id): which number stands for an id that is a text?
--
-- The first 63 bits of its MD5, so that every sync of every store finds the same number.
CREATE MACRO stable_id(source_id) AS
CAST(CAST('0x' || left(md5(source_id), 16) AS UBIGINT) >> 1 AS BIGINT);
