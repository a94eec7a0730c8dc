-- ethnicity_group(ethnicity): in which standard group is what a hospital recorded?
--
-- Rule:    the groups of the US Office of Management and Budget (Statistical Policy Directive 15,
--          2024), for the words of MIMIC-III, MIMIC-IV, OMOP and US Core (FHIR), in either case.
--          Other words are left as they are. NULL: not known. Of a recorded country or region the
--          directive's own examples decide; Caribbean islands alone may be of several groups.
CREATE OR REPLACE MACRO ethnicity_group(ethnicity) AS
CASE
    WHEN
        upper(trim(ethnicity)) IN (
            'WHITE', 'WHITE - BRAZILIAN', 'WHITE - EASTERN EUROPEAN', 'WHITE - OTHER EUROPEAN',
            'WHITE - RUSSIAN', 'PORTUGUESE'
        )
        THEN 'White'
    WHEN
        upper(trim(ethnicity)) IN (
            'BLACK OR AFRICAN AMERICAN', 'BLACK/AFRICAN AMERICAN', 'BLACK/AFRICAN',
            'BLACK/CAPE VERDEAN', 'BLACK/CARIBBEAN ISLAND', 'BLACK/HAITIAN'
        )
        THEN 'Black or African American'
    WHEN
        upper(trim(ethnicity)) IN (
            'HISPANIC OR LATINO', 'HISPANIC/LATINO - CENTRAL AMERICAN',
            'HISPANIC/LATINO - CENTRAL AMERICAN (OTHER)', 'HISPANIC/LATINO - COLOMBIAN',
            'HISPANIC/LATINO - COLUMBIAN', 'HISPANIC/LATINO - CUBAN', 'HISPANIC/LATINO - DOMINICAN',
            'HISPANIC/LATINO - GUATEMALAN', 'HISPANIC/LATINO - HONDURAN',
            'HISPANIC/LATINO - MEXICAN', 'HISPANIC/LATINO - PUERTO RICAN',
            'HISPANIC/LATINO - SALVADORAN', 'SOUTH AMERICAN'
        )
        THEN 'Hispanic or Latino'
    WHEN
        upper(trim(ethnicity)) IN (
            'ASIAN', 'ASIAN - ASIAN INDIAN', 'ASIAN - CAMBODIAN', 'ASIAN - CHINESE',
            'ASIAN - FILIPINO', 'ASIAN - JAPANESE', 'ASIAN - KOREAN', 'ASIAN - OTHER',
            'ASIAN - SOUTH EAST ASIAN', 'ASIAN - THAI', 'ASIAN - VIETNAMESE'
        )
        THEN 'Asian'
    WHEN
        upper(trim(ethnicity)) IN (
            'AMERICAN INDIAN OR ALASKA NATIVE', 'AMERICAN INDIAN/ALASKA NATIVE',
            'AMERICAN INDIAN/ALASKA NATIVE FEDERALLY RECOGNIZED TRIBE'
        )
        THEN 'American Indian or Alaska Native'
    WHEN
        upper(trim(ethnicity)) IN (
            'NATIVE HAWAIIAN OR OTHER PACIFIC ISLANDER', 'NATIVE HAWAIIAN OR PACIFIC ISLANDER'
        )
        THEN 'Native Hawaiian or Pacific Islander'
    WHEN upper(trim(ethnicity)) IN ('MIDDLE EASTERN', 'MIDDLE EASTERN OR NORTH AFRICAN')
        THEN 'Middle Eastern or North African'
    WHEN
        upper(trim(ethnicity)) IN (
            'OTHER', 'OTHER RACE', 'CARIBBEAN ISLAND', 'MULTI RACE ETHNICITY',
            'MULTIPLE RACE/ETHNICITY'
        )
        THEN 'Other'
    WHEN
        upper(trim(ethnicity)) IN (
            '', 'UNKNOWN', 'UNKNOWN/NOT SPECIFIED', 'UNABLE TO OBTAIN',
            'PATIENT DECLINED TO ANSWER', 'ASKED BUT UNKNOWN', 'ASKED BUT NO ANSWER'
        )
        THEN NULL
    ELSE ethnicity
END;

COMMENT ON MACRO ethnicity_group IS
'ethnicity_group(ethnicity): in which standard group is what a hospital recorded?
The groups of the US Office of Management and Budget (2024) for the words of MIMIC, OMOP and US
Core; other words as they are; NULL: not known.';
