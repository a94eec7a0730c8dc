"""The whole way on a synthetic hospital, with a BERT small enough to train in a minute."""

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

Bar = Callable[[str], AbstractContextManager[Callable[..., None]]]


def demo(
    folder: Path, patients: int, seed: int, bar: Bar, say: Callable[[str], None]
) -> dict[str, Any]:
    """Synthetic notes to embeddings, labels, a scorer and scores, all in a new folder.

    `bar` opens a progress bar, `say` tells what comes next. Raises FeatureStoreError where the
    folder exists.
    """
    from export.finetuning.finetune_job import finetune
    from export.onnx_export.exporter import export

    if folder.exists():
        raise FeatureStoreError(f"{folder} exists already - remove it, or name another folder")
    say(f"1/7  a synthetic hospital of {patients:,} patients")
    with bar("patients") as done:
        write_hospital(folder / "hospital", patients, seed, progress=lambda n: done(n, patients))
    say("2/7  its admissions and notes, and who came back within 30 days")
    store = create_store(folder / "ward.duckdb", str(folder / "hospital"), "mimic3")
    sync(store)
    say("3/7  a BERT of 2 layers x 128, its word pieces learned from the notes, fine-tuned")
    small_bert(folder / "base", _training_texts(store), seed)
    with bar("steps") as done:
        finetune(store, folder / "checkpoint", folder / "base", **RECIPE, progress=done)
    say("4/7  exported to ONNX, compared with PyTorch")
    export(folder / "checkpoint", folder / "model", "demo-bert", RECIPE["max_tokens"])
    say("5/7  every note embedded")
    with bar("notes") as done:
        encoder = OnnxEncoder(folder / "model")
        embed_pending(store, encoder, progress=done)
    say("6/7  a scorer trained, bag-of-words beside it")
    trained = train(store, "readmit-72h")
    say("7/7  every admission scored")
    scored = score(store, "readmit-72h")
    (hadm_id,) = store.one("SELECT hadm_id FROM latest_scores ORDER BY probability DESC LIMIT 1")
    return {"store": str(store.path), "train": trained, "score": scored, "hadm_id": hadm_id}


# One pass: after a second one a BERT this small knows its patients by heart.
RECIPE: dict[str, Any] = {
    "epochs": 1,
    "batch_size": 32,
    "learning_rate": 5e-4,
    "max_tokens": 128,
    "seed": 0,
}
SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def learn_word_pieces(texts: Iterable[str], vocabulary: int, lowercase: bool) -> Any:
    """A BERT tokenizer, as transformers wraps it, with word pieces learned from texts.

    Words of the texts become its vocabulary, and travel with every model: for invented notes only.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    words.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.train_from_iterator(
        texts,
        trainers.WordPieceTrainer(
            vocab_size=vocabulary, special_tokens=list(SPECIAL.values()), show_progress=False
        ),
    )
    ids = words.get_vocab()
    words.post_processor = processors.BertProcessing(
        ("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"])
    )
    return PreTrainedTokenizerFast(tokenizer_object=words, **SPECIAL)  # type: ignore[no-untyped-call]


def small_bert(folder: Path, texts: Iterable[str], seed: int) -> None:
    """Write a random BERT of 2 layers x 128 with 4,000 word pieces learned from texts.

    Its positions start at zero: with so few notes to learn from, which words stand there counts
    before where they stand.
    """
    import torch
    from transformers import BertConfig, BertModel

    quiet_transformers()
    tokenizer = learn_word_pieces(texts, vocabulary=4_000, lowercase=True)
    torch.manual_seed(seed)
    shape = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=512,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    bert = BertModel(shape)
    torch.nn.init.zeros_(bert.embeddings.position_embeddings.weight)
    bert.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _training_texts(store: Store) -> Iterator[str]:
    """The notes of the training patients: test patients stay out_of_fold."""
    note_ids = store.sql(
        "SELECT note_id FROM notes WHERE status = 'ready' AND patient_split(subject_id) = 'train' "
        "ORDER BY hadm_id, note_id LIMIT 3000"
    ).fetchall()
    for notes in open_source(store).texts([note_id for (note_id,) in note_ids]):
        yield from (text for _, text in notes)
