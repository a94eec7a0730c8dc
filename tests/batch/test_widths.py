"""Encoders of several widths in one store: each gives what it gives in a store of its own."""

import shutil

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from batch.embedding.drift import NightlyStats, check_drift
from batch.report.data import report_data
from featurestore import (
    Store,
    audit,
    create_store,
    drop_encoder,
    embed_pending,
    explain,
    forget,
    info,
    nightly,
    promote,
    replay,
    report,
    score,
    similar,
    sync,
    train,
    verify,
)
from featurestore.store.vectors import arrow_to_vectors
from tests.conftest import WordCounter
from tests.hospital import invent_returns, note, write_hospital

PATIENTS = 120
DIED = 20  # of them in hospital, after the prediction: no label, but a score
WIDE, NARROW = "wide-00000000", "narrow-00000000"
AGGREGATES = ("mean", "clinicalbert")
WITH_VECTORS = ("embeddings", "admission_embeddings", "nightly_embedding_stats")


def encoder(encoder_id):
    """Return the word counter; the narrow one sees other words, and one less."""
    return WordCounter(WIDE) if encoder_id == WIDE else Narrow(NARROW, dim=3)


class Narrow(WordCounter):
    COUNTED = ("home", "canary", "pain", "alone")


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """Patients who live alone and are in pain return more often, and their notes say so."""
    stays, notes = invent_returns(PATIENTS, base=0.05, effect=0.45, most_home=5, died=DIED)
    folder = tmp_path_factory.mktemp("widths")
    return write_hospital(folder / "hospital", stays, notes), stays, notes


@pytest.fixture(scope="module")
def stores(hospital):
    """Return a store with both encoders, and one with each of them, all with their scorers."""
    folder = hospital[0].parent
    stores = {}
    for name, encoders in {"both": (WIDE, NARROW), WIDE: (WIDE,), NARROW: (NARROW,)}.items():
        store = create_store(folder / f"{name}.duckdb", hospital[0], "mimic3")
        sync(store)
        for encoder_id in encoders:
            embed_pending(store, encoder(encoder_id))
            for aggregate in AGGREGATES:
                name_of_scorer = f"{aggregate}-{encoder_id}"
                fitted = train(
                    store, name_of_scorer, encoder_id, aggregate=aggregate, baseline=False
                )
                assert fitted["no_signal"] is None
        stores[name] = store
    return stores


@pytest.fixture
def both(stores, tmp_path):
    """Return a copy of the store with both encoders, to change."""
    for suffix in ("", ".seal"):
        shutil.copy(f"{stores['both'].path}{suffix}", tmp_path / f"ward.duckdb{suffix}")
    return Store(tmp_path / "ward.duckdb")


def outputs(store, encoder_id):
    """Return everything that is read with an encoder or one of its scorers."""
    vectors = "SELECT * EXCLUDE (encoder_id) FROM {} WHERE encoder_id = $e ORDER BY ALL"
    result = {
        "training_set": store.sql("FROM training_set($e) ORDER BY ALL", e=encoder_id).fetchall(),
        **{
            table: store.sql(vectors.format(table), e=encoder_id).fetchall()
            for table in ("embeddings", "admission_embeddings")
        },
    }
    for aggregate in AGGREGATES:
        scorer = f"{aggregate}-{encoder_id}-v1"
        result[aggregate] = [
            store.sql("FROM score_admissions($s) ORDER BY ALL", s=scorer).fetchall(),
            store.one("SELECT coef, metrics FROM scorers WHERE scorer_id = $s", s=scorer),
            explain(store, 7, scorer),
            report_data(store, scorer).embeddings.tolist(),
            [(finding.code, finding.count) for finding in audit(store, scorer)],
        ]
    return result


@pytest.mark.parametrize("encoder_id", [WIDE, NARROW])
def test_an_encoder_gives_what_it_gives_without_the_other(stores, encoder_id):
    shared, alone = (outputs(stores[name], encoder_id) for name in ("both", encoder_id))
    assert shared == alone
    assert {len(row[-1]) for row in shared["embeddings"]} == {4 if encoder_id == WIDE else 3}
    assert len(shared["mean"][0]) == PATIENTS > len(shared["training_set"]) == PATIENTS - DIED


def test_info_lists_both_widths_and_verify_finds_nothing(stores):
    assert [(row["encoder"], row["dim"]) for row in info(stores["both"])["encoders"]] == [
        (NARROW, 3),
        (WIDE, 4),
    ]
    assert verify(stores["both"]) == []


def test_similar_admissions_are_those_of_the_active_encoder(stores, both):
    assert similar(both, 7, n=200) == similar(stores[WIDE], 7, n=200)
    promote(both, NARROW)
    assert similar(both, 7, n=200) == similar(stores[NARROW], 7, n=200)
    assert len(similar(both, 7, n=200)) == PATIENTS - 1


def test_nights_of_both_keep_their_means_drift_statistics_and_replays(both, hospital, tmp_path):
    folder, stays, notes = hospital
    for encoder_id in (WIDE, NARROW):
        for aggregate in AGGREGATES:
            assert score(both, f"{aggregate}-{encoder_id}")["scored"] == PATIENTS
    runs = both.sql("SELECT DISTINCT run_id FROM scores ORDER BY 1").fetchall()
    folder = shutil.copytree(folder, tmp_path / "hospital")
    with both.transaction("source") as transaction:
        transaction.con.execute("UPDATE settings SET source = $1", [str(folder)])
    edited = [notes[0] | {"TEXT": "alone alone"}, *notes[1:], note(999, 2, "pain")]
    write_hospital(folder, stays, edited)
    # The first night changes notes of both encoders, the second adds what the other still lacks.
    assert nightly(both, encoder(WIDE), f"mean-{WIDE}")["scored"] == 2
    assert nightly(both, encoder(NARROW), f"mean-{NARROW}")["scored"] == 2
    stats = both.sql(
        "SELECT encoder_id, n_notes, embedding FROM nightly_embedding_stats ORDER BY run_id"
    ).fetchall()
    # Means of "alone alone" and "pain", counted by hand.
    assert stats == [(WIDE, 2, [2.0, 1.5, 1.0, 1.0]), (NARROW, 2, [1.0, 1.0, 1.5])]
    archived = "SELECT encoder_id, len(embedding), count(*) FROM archived_admission_embeddings"
    assert both.sql(f"{archived} GROUP BY ALL ORDER BY ALL").fetchall() == [
        (NARROW, 3, 2),
        (WIDE, 4, 2),
    ]
    replayed = [replay(both, run_id) for (run_id,) in runs]
    # Scorers on windows find only today's.
    assert [(run["same"], run["changed_since"]) for run in replayed] == [
        (PATIENTS, 0),
        (PATIENTS - 2, 2),
    ] * 2
    assert verify(both) == []


def night(encoder_id, shift=0.0):
    """Return the statistics of thirty notes, whose vectors are noise around a point."""
    width = encoder(encoder_id).dim
    stats = NightlyStats(encoder_id, width)
    vectors = np.random.default_rng(0).normal(shift, 1, (30, width)).astype(np.float32)
    stats.add(pa.array(["Nursing"] * 30), pa.array([0] * 30), vectors)
    return stats


def test_drift_is_measured_against_the_nights_of_the_same_encoder(both):
    for _ in range(5):
        with both.transaction("nightly") as transaction:
            transaction.counts.update(seen=30, excluded=0)
            for encoder_id in (WIDE, NARROW):
                night(encoder_id).record(transaction.con, transaction.run_id)
    con = both.connect()
    assert check_drift(con, night(NARROW), 30, 0, 24, True) == []
    (finding,) = check_drift(con, night(NARROW, shift=5), 30, 0, 24, True)
    assert finding.text.startswith("the mean vector of Nursing moved by")


def test_a_forgotten_patient_leaves_no_vector_of_either(both):
    rows = forget(both, [7])["rows"]
    assert (rows["embeddings"], rows["admission_embeddings"]) == (
        2,
        8,
    )  # a window each, at four cutoffs
    assert both.one("SELECT count(*) FROM embeddings WHERE hadm_id = 7") == (0,)
    assert verify(both) == []


def test_the_old_encoder_is_dropped_and_the_new_one_of_another_width_stays(stores, both, tmp_path):
    promote(both, NARROW)
    drop_encoder(both, WIDE, force=True)
    assert outputs(both, NARROW) == outputs(stores[NARROW], NARROW)
    report(both, f"mean-{NARROW}", tmp_path / "report.html")
    for table in WITH_VECTORS:
        assert both.one(f"SELECT count(*) FROM {table} WHERE encoder_id = $w", w=WIDE) == (0,)
    assert verify(both) == []


def test_a_query_that_forgets_the_encoder_fails_rather_than_mixes_widths(stores):
    product = (
        "SELECT sum(list_inner_product(m.embedding, s.coef)) FROM admission_embeddings AS m, "
        f"scorers AS s WHERE s.scorer_id = 'mean-{WIDE}-v1'"
    )
    assert stores[WIDE].one(product)
    with pytest.raises(duckdb.InvalidInputException, match="dimensions must be equal"):
        stores["both"].one(product)
    vectors = stores["both"].sql("SELECT embedding FROM embeddings").to_arrow_table()["embedding"]
    with pytest.raises(ValueError, match="a matrix needs vectors of one width"):
        arrow_to_vectors(vectors)
