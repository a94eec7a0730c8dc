"""The pipeline end to end on a synthetic hospital, with a BERT that trains in a minute."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from batch.embedding.embed import embed_pending
from batch.embedding.encoder import OnnxEncoder
from batch.scoring.score import score
from batch.training.train import train
from export.checkpoint import quiet_transformers
from featurestore import Store, sync, write_hospital
from featurestore.errors import FeatureStoreError
from featurestore.source.source import create_store, open_source

ProgressBar = Callable[[str], AbstractContextManager[Callable[..., None]]]

FINETUNING: dict[str, Any] = {
    "epochs": 1,  # after a second epoch, a BERT this small overfits to the training patients
    "batch_size": 32,
    "learning_rate": 5e-4,
    "max_tokens": 128,
    "seed": 0,
}
SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def demo(
    folder: Path, patients: int, seed: int, bar: ProgressBar, say: Callable[[str], None]
) -> dict[str, Any]:
    """Take synthetic notes to embeddings, labels, a scorer and scores, all in a new folder.

    `bar` opens a progress bar, `say` announces each step. Returns the path of the store, the
    results of `train` and `score`, and the admission at the highest risk. Raises FeatureStoreError
    if the folder exists.
    """
    from export.finetuning.finetune_job import finetune
    from export.onnx_export.exporter import export

    if folder.exists():
        raise FeatureStoreError(f"{folder} exists already - remove it, or name another folder")
    say(f"1/7  write a synthetic hospital of {patients:,} patients")
    with bar("patients") as advance:
        write_hospital(folder / "hospital", patients, seed, progress=lambda n: advance(n, patients))
    say("2/7  sync its admissions and notes")
    store = create_store(folder / "ward.duckdb", str(folder / "hospital"), "mimic3")
    sync(store)
    say("3/7  fine-tune a BERT of 2 layers x 128 on readmission within 30 days")
    write_small_bert(folder / "base", training_texts(store), seed)
    with bar("steps") as advance:
        finetune(store, folder / "checkpoint", folder / "base", **FINETUNING, progress=advance)
    say("4/7  export it to ONNX and compare it with PyTorch")
    export(folder / "checkpoint", folder / "model", "demo-bert", FINETUNING["max_tokens"])
    say("5/7  embed every note")
    with bar("notes") as advance:
        encoder = OnnxEncoder(folder / "model")
        embed_pending(store, encoder, progress=advance)
    say("6/7  train a scorer, with a bag-of-words baseline")
    trained = train(store, "readmit-72h")
    say("7/7  score every admission")
    scored = score(store, "readmit-72h")
    (hadm_id,) = store.one("SELECT hadm_id FROM latest_scores ORDER BY probability DESC LIMIT 1")
    return {"store": str(store.path), "train": trained, "score": scored, "hadm_id": hadm_id}


def train_tokenizer(texts: Iterable[str], vocabulary: int, lowercase: bool) -> Any:
    """Return a BERT tokenizer for transformers whose WordPiece vocabulary is learned from texts.

    Words of the texts become its vocabulary, which is saved with every model: use it for invented
    notes only.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        texts,
        trainers.WordPieceTrainer(
            vocab_size=vocabulary,
            special_tokens=list(SPECIAL_TOKENS.values()),
            show_progress=False,
        ),
    )
    ids = tokenizer.get_vocab()
    tokenizer.post_processor = processors.BertProcessing(
        ("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"])
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL_TOKENS)  # type: ignore[no-untyped-call]


def write_small_bert(folder: Path, texts: Iterable[str], seed: int) -> None:
    """Write a random BERT of 2 layers x 128 with a vocabulary of 4,000 tokens learned from texts.

    Its position embeddings start at zero: with so few notes to learn from, the words of a note
    matter before their order does.
    """
    import torch
    from transformers import BertConfig, BertModel

    quiet_transformers()
    tokenizer = train_tokenizer(texts, vocabulary=4_000, lowercase=True)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    bert = BertModel(config)
    torch.nn.init.zeros_(bert.embeddings.position_embeddings.weight)
    bert.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def training_texts(store: Store) -> Iterator[str]:
    """Yield the texts of 3,000 notes of training patients."""
    note_ids = store.sql(
        "SELECT note_id FROM notes WHERE status = 'ready' AND patient_split(subject_id) = 'train' "
        "ORDER BY hadm_id, note_id LIMIT 3000"
    ).fetchall()
    for notes in open_source(store).texts([note_id for (note_id,) in note_ids]):
        yield from (text for _, text in notes)
