"""The caveats of each schema and rule, and the page that lists them."""

from pathlib import Path

import pytest

from featurestore import Store
from featurestore.cohort.caveats import caveats

PAGE = Path(__file__).resolve().parents[3] / "docs" / "labels.md"
OF_RULE = {"same-day-returns", "planned-by-admission-type", "no-excluded-diagnoses"}
OF_OMOP = {"omop-planned", "omop-note-times"}


@pytest.mark.parametrize(
    ("schema", "rule", "codes"),
    [
        pytest.param("mimic3", "readmission", {"mimic3-cohort"} | OF_RULE, id="MIMIC-III"),
        pytest.param("mimic4", "readmission", {"mimic4-cohort"} | OF_RULE, id="MIMIC-IV"),
        pytest.param("omop", "readmission", OF_OMOP | OF_RULE, id="OMOP"),
        pytest.param("omop53", "clinicalbert", OF_OMOP, id="OMOP 5.3, ClinicalBERT's rule"),
        pytest.param("/ours/our-hospital", "readmission", OF_RULE, id="another hospital"),
        pytest.param("mimic4", "clinicalbert", {"mimic4-cohort"}, id="ClinicalBERT's rule"),
        pytest.param("/ours/our-hospital", "clinicalbert", set(), id="nothing is known"),
        pytest.param("mimic3", "long_stay", set(), id="a task that is not about returns"),
        pytest.param("omop", "own_task", {"omop-note-times"}, id="a task of one's own"),
        pytest.param("omop", "death_or_readmission", OF_OMOP | OF_RULE, id="returns or deaths"),
    ],
)
def test_caveats_are_those_of_the_schema_and_of_the_rule(tmp_path, schema, rule, codes):
    store = Store.create(tmp_path / "w.duckdb", "hospital", schema)
    sentences = caveats(store, rule)
    assert {*sentences} == codes
    page = " ".join(PAGE.read_text().split())
    assert all(sentence in page for sentence in sentences.values())
