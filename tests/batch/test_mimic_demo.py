"""The main job on the real admissions of the MIMIC-III demo, through the command line."""

import json
import shutil

import pytest
from click.testing import CliRunner

from featurestore import Store
from featurestore.cli import main


def run(*arguments):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def checkpoint(mimic_demo, tmp_path_factory):
    """A small random BERT with the vocabulary of Bio_ClinicalBERT, as it lies on the hub."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert") / "checkpoint"
    torch.manual_seed(0)
    shape = BertConfig(
        vocab_size=28_996,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=128,
    )
    BertModel(shape).save_pretrained(folder)
    shutil.copyfile(mimic_demo.parent / "bert-base-cased-vocab.txt", folder / "vocab.txt")
    return folder


@pytest.mark.slow
def test_the_main_job_on_real_admissions(mimic_demo, checkpoint, tmp_path):
    ward, model = tmp_path / "w.duckdb", tmp_path / "model"
    run("init", ward, "--source", mimic_demo, "--schema", "mimic3")
    synced = json.loads(run("sync", ward, "--json"))
    assert synced["admissions"]["total"] == 129
    assert synced["notes"]["total"] == 779
    assert sum(row["count"] for row in synced["notes"]["excluded"]) == 34

    run("export", checkpoint, model)
    embedded = json.loads(run("embed", ward, model, "--device", "cpu", "--json"))
    assert embedded["embedded"] + embedded["no_words"] == embedded["pending"] == 745
    store = Store(ward)
    # Every note is accounted for: ready and embedded, or excluded with a reason.
    assert store.sql(
        "SELECT status, reason IS NULL, e.note_id IS NULL, count(*) FROM notes "
        "LEFT JOIN (SELECT DISTINCT note_id FROM embeddings) AS e USING (note_id) "
        "GROUP BY ALL ORDER BY ALL"
    ).fetchall() == [("excluded", False, True, 35), ("ready", True, False, 744)]
    assert json.loads(run("embed", ward, model, "--json"))["embedded"] == 0

    counts = json.loads(run("labels", ward, "--json"))
    assert (counts["positive"], counts["negative"]) == (11, 78)
    assert counts["excluded"] == [{"reason": "died in hospital", "count": 40}]
    predicted = counts["predicted"]
    not_judged = sum(row["count"] for row in predicted["not_judged"])
    assert predicted["stays"] == predicted["judged"] + not_judged
    assert json.loads(run("labels", ward, "--horizon-days", 3, "--json"))["positive"] == 2

    trained = json.loads(run("train", ward, "readmit", "--json"))
    assert trained["admissions"]["train"] > 50
    scored = json.loads(run("score", ward, "readmit", "--json"))
    assert scored["scored"] == store.one("SELECT count(*) FROM latest_scores")[0] > 80
