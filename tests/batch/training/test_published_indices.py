"""LACE and the HOSPITAL score: patients whose points other people published or the papers give."""

import pytest

from featurestore.store.sql_files import read_sql
from tests.timeline import day, stay, store_with


def index(name, stays, diagnoses=(), ed_visits=(), items=()):
    """(points, is_unknown) of stay 1 of patient 1."""
    con = store_with(stays)
    for hadm_id, vocabulary, code in diagnoses:
        con.execute("INSERT INTO diagnoses VALUES ($1, 1, $2, $3)", [hadm_id, vocabulary, code])
    for hadm_id, begin in ed_visits:
        con.execute("INSERT INTO ed_visits VALUES (1, $1, $2, NULL)", [hadm_id, begin])
    for row in items:
        con.execute("INSERT INTO hospital_score_items VALUES (1, 1, $1, $2, $3, $4)", row)
    con.execute("CREATE TEMP TABLE training_admissions AS SELECT 1 AS hadm_id")
    con.execute(read_sql("training/baselines/charlson_codes"))
    ((_, points, is_unknown),) = con.execute(read_sql(f"training/baselines/{name}")).fetchall()
    return points, is_unknown


NOT_CHARLSON = (1, "ICD9CM", "4019")  # hypertension: coded, and no disease of the index


# The two examples of lace_readmission_index in the R package cliot 1.0.0.
def test_an_acute_stay_of_five_days_with_much_disease_and_two_visits_has_14_points():
    diagnoses = [(1, "ICD9CM", "4280"), (1, "ICD9CM", "29410")]  # 2 + 3 = 5 of Charlson: 5 points
    visits = [(None, day(-30)), (None, day(-60))]
    assert index("lace", [stay(1, day(0), day(5))], diagnoses, visits) == (14, False)


def test_an_elective_stay_of_two_days_has_2_points():
    assert index("lace", [stay(1, day(0), day(2), "ELECTIVE")], [NOT_CHARLSON]) == (2, False)


@pytest.mark.parametrize(
    ("days", "points"),
    [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (6, 4), (7, 5), (13, 5), (14, 7), (90, 7)],
)
def test_the_points_for_the_length_of_stay(days, points):
    elective = [stay(1, day(0), day(days, 13), "ELECTIVE")]
    assert index("lace", elective, [NOT_CHARLSON]) == (points, False)


@pytest.mark.parametrize(
    ("codes", "points"),
    [
        pytest.param(["ICD9CM 41071"], 1, id="myocardial infarction"),
        pytest.param(["ICD10CM I639", "ICD10CM I64"], 1, id="a disease counts once"),
        pytest.param(["ICD9CM 44020", "ICD10CM E119"], 2, id="vessels and diabetes"),
        pytest.param(["ICD9CM 49121"], 2, id="chronic pulmonary disease"),
        pytest.param(["ICD10CM N186"], 2, id="renal disease"),
        pytest.param(["ICD9CM 1539"], 2, id="a tumor"),
        pytest.param(["ICD10CM M0500"], 3, id="rheumatoid arthritis"),
        pytest.param(["ICD9CM 5724"], 5, id="hepatorenal syndrome has 4 of Charlson"),
        pytest.param(["ICD10CM C787"], 5, id="metastases have 6 of Charlson"),
        pytest.param(["ICD9CM 25000", "ICD9CM 4280"], 3, id="three of Charlson are three points"),
        pytest.param(["ICD10CM I4280", "SNOMED 4280"], 2, id="of vocabularies without ICD none"),
    ],
)  # fmt: skip
def test_the_points_for_comorbidity(codes, points):
    diagnoses = [(1, *code.split()) for code in codes]
    assert index("lace", [stay(1, day(0), day(0, 20), "ELECTIVE")], diagnoses) == (points, False)


def test_codes_of_earlier_stays_count_and_those_of_later_ones_do_not():
    stays = [stay(n, day(30 * n), day(30 * n, 20), "ELECTIVE") for n in (0, 1, 2)]
    codes = [(0, "ICD9CM", "410"), (2, "ICD9CM", "290"), NOT_CHARLSON]
    assert index("lace", stays, codes) == (1, False)


def test_visits_count_for_six_months_and_not_the_one_that_led_to_the_stay():
    one_day = [stay(1, day(200), day(200, 20), "ELECTIVE")]
    visits = [(1, day(199)), (None, day(200, 13)), (None, day(10)), (None, day(20)), (9, day(150))]
    assert index("lace", one_day, [NOT_CHARLSON], visits) == (2, False)
    many = [(None, day(100 + n)) for n in range(7)]
    assert index("lace", one_day, [NOT_CHARLSON], many) == (4, False)


def test_a_stay_without_codes_is_unknown():
    assert index("lace", [stay(1, day(0), day(2))]) == (5, True)


# Donze et al. 2013, table 3: 1 + 2 + 1 + 1 + 1 + 5 + 2 = 13 points at most.
def test_the_points_of_the_hospital_score():
    five_days = stay(1, day(400), day(405))
    before = [stay(n, day(60 * n + 50), day(60 * n + 51)) for n in range(6)]
    others = [row for row in before if row[0] != 1] + [stay(9, day(390), day(391))]
    worst = (11.9, 134, True, True)
    assert index("hospital_score", [five_days, *others], items=[worst]) == (13, False)
    one_before = [five_days, stay(9, day(390), day(391))]
    assert index("hospital_score", one_before, items=[(12, 135, False, False)]) == (5, False)
    short = [stay(1, day(0), day(4), "ELECTIVE")]
    assert index("hospital_score", short, items=[(12, 135, False, False)]) == (0, False)
    assert index("hospital_score", short, items=[(None, 130, False, False)]) == (1, True)
    assert index("hospital_score", short) == (0, True)
