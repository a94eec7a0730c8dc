-- convert_to(value, encoding): what are the bytes of a text in an encoding?
--
-- PostgreSQL has such a function; it makes the MD5 of a text the same whatever the encoding of the
-- database. DuckDB holds UTF-8 only.
CREATE OR REPLACE TEMP MACRO convert_to(value, encoding) AS value;
