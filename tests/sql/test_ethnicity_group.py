"""The standard group of what a hospital recorded as ethnicity or race."""

import pytest

from tests.timeline import empty_store

# As the two databases hold them (41 and 33 values).
MIMIC_III = {
    "White": "WHITE|WHITE - RUSSIAN|WHITE - OTHER EUROPEAN|WHITE - EASTERN EUROPEAN|"
    "WHITE - BRAZILIAN|PORTUGUESE",
    "Black or African American": "BLACK/AFRICAN AMERICAN|BLACK/CAPE VERDEAN|BLACK/HAITIAN|"
    "BLACK/AFRICAN",
    "Hispanic or Latino": "HISPANIC OR LATINO|HISPANIC/LATINO - PUERTO RICAN|"
    "HISPANIC/LATINO - DOMINICAN|HISPANIC/LATINO - GUATEMALAN|HISPANIC/LATINO - CUBAN|"
    "HISPANIC/LATINO - SALVADORAN|HISPANIC/LATINO - CENTRAL AMERICAN (OTHER)|"
    "HISPANIC/LATINO - MEXICAN|HISPANIC/LATINO - COLOMBIAN|HISPANIC/LATINO - HONDURAN|"
    "SOUTH AMERICAN",
    "Asian": "ASIAN|ASIAN - CHINESE|ASIAN - ASIAN INDIAN|ASIAN - VIETNAMESE|ASIAN - FILIPINO|"
    "ASIAN - CAMBODIAN|ASIAN - OTHER|ASIAN - KOREAN|ASIAN - JAPANESE|ASIAN - THAI",
    "American Indian or Alaska Native": "AMERICAN INDIAN/ALASKA NATIVE|"
    "AMERICAN INDIAN/ALASKA NATIVE FEDERALLY RECOGNIZED TRIBE",
    "Native Hawaiian or Pacific Islander": "NATIVE HAWAIIAN OR OTHER PACIFIC ISLANDER",
    "Middle Eastern or North African": "MIDDLE EASTERN",
    "Other": "OTHER|MULTI RACE ETHNICITY|CARIBBEAN ISLAND",
    None: "UNKNOWN/NOT SPECIFIED|UNABLE TO OBTAIN|PATIENT DECLINED TO ANSWER",
}
MIMIC_IV = {
    "White": "WHITE|WHITE - BRAZILIAN|WHITE - EASTERN EUROPEAN|WHITE - OTHER EUROPEAN|"
    "WHITE - RUSSIAN|PORTUGUESE",
    "Black or African American": "BLACK/AFRICAN|BLACK/AFRICAN AMERICAN|BLACK/CAPE VERDEAN|"
    "BLACK/CARIBBEAN ISLAND",
    "Hispanic or Latino": "HISPANIC OR LATINO|HISPANIC/LATINO - CENTRAL AMERICAN|"
    "HISPANIC/LATINO - COLUMBIAN|HISPANIC/LATINO - CUBAN|HISPANIC/LATINO - DOMINICAN|"
    "HISPANIC/LATINO - GUATEMALAN|HISPANIC/LATINO - HONDURAN|HISPANIC/LATINO - MEXICAN|"
    "HISPANIC/LATINO - PUERTO RICAN|HISPANIC/LATINO - SALVADORAN|SOUTH AMERICAN",
    "Asian": "ASIAN|ASIAN - ASIAN INDIAN|ASIAN - CHINESE|ASIAN - KOREAN|ASIAN - SOUTH EAST ASIAN",
    "American Indian or Alaska Native": "AMERICAN INDIAN/ALASKA NATIVE",
    "Native Hawaiian or Pacific Islander": "NATIVE HAWAIIAN OR OTHER PACIFIC ISLANDER",
    "Other": "OTHER|MULTIPLE RACE/ETHNICITY",
    None: "UNKNOWN|UNABLE TO OBTAIN|PATIENT DECLINED TO ANSWER",
}
US_CORE = {
    "White": "White",
    "Black or African American": "Black or African American",
    "Asian": "Asian",
    "American Indian or Alaska Native": "American Indian or Alaska Native",
    "Native Hawaiian or Pacific Islander": "Native Hawaiian or Other Pacific Islander",
    "Other": "Other Race",
    None: "Unknown|Asked But Unknown|Asked but no answer",
}


def group(*values):
    query = "SELECT ethnicity_group(unnest($1::VARCHAR[]))"
    return [name for (name,) in empty_store().execute(query, [list(values)]).fetchall()]


@pytest.mark.parametrize(
    ("source", "values"),
    [
        pytest.param(MIMIC_III, 41, id="MIMIC-III"),
        pytest.param(MIMIC_IV, 33, id="MIMIC-IV"),
        pytest.param(US_CORE, 9, id="US Core"),
    ],
)
def test_every_value_of_a_source_has_its_group(source, values):
    expected = {value: name for name, words in source.items() for value in words.split("|")}
    assert len(expected) == values
    assert dict(zip(expected, group(*expected), strict=True)) == expected


def test_words_of_other_hospitals_are_left_as_they_are():
    words = ["White - British", "Mixed", "Asian British: Pakistani", "Maori", "kaukasisch"]
    assert group(*words) == words


def test_case_and_blanks_do_not_matter_and_nothing_is_not_known():
    assert group(" white ", "", None) == ["White", None, None]
