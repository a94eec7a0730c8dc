"""Helpers of several benchmarks."""

import re
import time
from pathlib import Path


def timed(work):
    """Return the seconds that `work` took, and its result."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def peak_memory():
    """Return the most MB that this process has used."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1000


def row(what, measured, budget=""):
    """Print a row of the table."""
    print(f"| {what} | {measured} | {budget} |", flush=True)


def random_bert(folder, texts):
    """Write a random BERT of Bio_ClinicalBERT's shape, with a vocabulary learned from the texts.

    Returns the model and its tokenizer.
    """
    import torch
    from transformers import BertConfig, BertModel

    from batch.demo import train_tokenizer
    from export.checkpoint import quiet_transformers

    quiet_transformers()
    tokenizer = train_tokenizer(texts, vocabulary=28_996, lowercase=False)
    tokenizer.model_max_length = 512
    torch.manual_seed(0)
    bert = BertModel(BertConfig(vocab_size=28_996)).eval()
    bert.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return bert, tokenizer


def random_modernbert(folder, texts):
    """Write a random ModernBERT of BioClinical ModernBERT-base's shape, as `random_bert` does."""
    import torch
    from transformers import ModernBertConfig, ModernBertModel

    from batch.demo import train_tokenizer
    from export.checkpoint import quiet_transformers

    quiet_transformers()
    tokenizer = train_tokenizer(texts, vocabulary=50_368, lowercase=False)
    tokenizer.model_max_length = 8_192
    torch.manual_seed(0)
    ids = {
        f"{name}_token_id": getattr(tokenizer, f"{token}_token_id")
        for name, token in
        (("pad", "pad"), ("cls", "cls"), ("sep", "sep"), ("bos", "cls"), ("eos", "sep"))
    }  # fmt: skip
    model = ModernBertModel(ModernBertConfig(**ids)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith("layers.") and weight.dim() == 2:
                weight *= 2  # as random as it is made, all windows have nearly the same vector
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def hospital(notes, text_words=None):
    """Return MIMIC-III's tables as DuckDB queries: 20 notes per stay, one stay per patient.

    Each text has so many words of 32 characters; by default as many as the notes of MIMIC-III.
    """
    words = text_words or "CASE WHEN i % 10 = 0 THEN 270 ELSE 30 END"
    return {
        "PATIENTS": f"""
            SELECT CAST(i AS INT) AS SUBJECT_ID, 'F' AS GENDER, TIMESTAMP '2080-01-01' AS DOB,
                CAST(NULL AS TIMESTAMP) AS DOD
            FROM range({notes // 20}) AS t (i)""",
        "ADMISSIONS": f"""
            SELECT CAST(i AS INT) AS HADM_ID, CAST(i AS INT) AS SUBJECT_ID,
                TIMESTAMP '2150-01-01' + to_hours(i % 1000) AS ADMITTIME,
                TIMESTAMP '2150-01-08' + to_hours(i % 1000) AS DISCHTIME,
                CAST(NULL AS TIMESTAMP) AS DEATHTIME, 'EMERGENCY' AS ADMISSION_TYPE,
                'HOME' AS DISCHARGE_LOCATION, 'X' AS ETHNICITY, 'Y' AS INSURANCE,
                0 AS HOSPITAL_EXPIRE_FLAG
            FROM range({notes // 20}) AS t (i)""",
        # On average 1.8 kB a note, as in MIMIC-III; every tenth is long.
        "NOTEEVENTS": f"""
            SELECT CAST(i AS INT) AS ROW_ID, CAST(i // 20 AS INT) AS SUBJECT_ID,
                CAST(i // 20 AS INT) AS HADM_ID, TIMESTAMP '2150-01-02' AS CHARTDATE,
                TIMESTAMP '2150-01-02' + to_minutes(i % 5000) AS CHARTTIME,
                TIMESTAMP '2150-01-02' + to_minutes(i % 5000) AS STORETIME,
                'Nursing' AS CATEGORY, CAST(NULL AS VARCHAR) AS ISERROR,
                list_aggregate(
                    [
                        md5(CAST(i * 300 + k AS VARCHAR))
                        for k in range({words})
                    ],
                    'string_agg', ' '
                ) AS TEXT
            FROM range({notes}) AS t (i)""",
    }
