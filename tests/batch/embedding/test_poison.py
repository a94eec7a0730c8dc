"""A bad note never stops a run: each of forty is embedded or excluded with a reason."""

import csv

import pytest

from featurestore import OnnxEncoder, create_store, embed_pending, sync, verify
from tests.hospital import NOTES, admission, note, write_hospital

LONG = "the patient was seen and sent home with her daughter " * 20_000

POISON = {
    "ten megabytes": LONG * 10,
    "empty": "",
    "blank": " \t\n  ",
    "a mark of de-identification and nothing else": "[** 2101-10-20 **]",
    "many marks": "[**Name**] " * 2_000,
    "marks that are never closed": "[** " * 20_000,
    "marks closed and never opened": "**] " * 20_000,
    "control characters": "".join(map(chr, range(1, 32))),
    "control characters between words": "chest\x07pain\x1b[31m\x08denied",
    "NUL": "chest\0pain",
    "nothing but NUL": "\0\0\0",
    "emoji": "\N{FACE WITH THERMOMETER}" * 50,
    "an emoji of several": "\N{MAN}\u200d\N{MICROSCOPE} seen",
    "right to left": "\u05db\u05d0\u05d1 \u05d1\u05d7\u05d6\u05d4",
    "an override of direction": "\u202e niap tsehc \u202c",
    "one word of 100,000 letters": "a" * 100_000,
    "100,000 digits": "1234567890" * 10_000,
    "100,000 hyphens": "-" * 100_000,
    "one letter": "a",
    "one full stop": ".",
    "a special token": "[CLS]",
    "a special token, again and again": "[SEP]" * 3_000,
    "the padding token": "[PAD] " * 600,
    "the mask token": "[MASK] [MASK]",
    "the unknown token": "[UNK] " * 2_000,
    "HTML": "<html><script>alert('x')</script><p>chest&nbsp;pain</p></html>",
    "XML without an end": "<note>" * 5_000,
    "JSON": '{"note": "chest pain", "n": [1, 2, {"x": null}]}',
    "a CSV in a note": 'a,"b\r\n",c\r\n"d""e",f',
    "SQL": "'; DROP TABLE notes; --",
    "a format string": "%s %d {0} {x!r} ${HOME} $(ls)",
    "RTF": r"{\rtf1\ansi chest pain\par}",
    "Windows line ends": "chest\r\npain\r\n" * 100,
    "zero width": "\u200b\u200b\ufeff",
    "combining accents without end": "e" + "\u0301" * 5_000,
    "private use": "\ue000\uf8ff",
    "mathematical letters": "\N{MATHEMATICAL BOLD CAPITAL A}" * 30,
    "Chinese": "\u80f8\u75db" * 500,
    "a table of vitals": "|HR|BP|\n|--|--|\n" + "|88|120/80|\n" * 1_000,
    "the same line a thousand times": "stable, no change\n" * 1_000,
}
EXCLUDED = {
    "empty": "empty text",
    "blank": "empty text",
    "a mark of de-identification and nothing else": "no words",
    "many marks": "no words",
}
NOT_UTF8 = b"chest pain \xff\xfe\x80 denied"


@pytest.fixture(scope="module")
def embedded(tmp_path_factory, model):
    """Return the store after all of them were embedded, and the counts."""
    folder = tmp_path_factory.mktemp("poison")
    notes = [note(n, 7, text) for n, text in enumerate(POISON.values())]
    hospital = write_hospital(folder / "h", [admission(7)], notes)
    with (hospital / "NOTEEVENTS.csv").open("a", newline="") as stream:
        row = note(len(POISON), 7, "TEXT")
        csv.DictWriter(stream, NOTES).writerow(row)
    data = (hospital / "NOTEEVENTS.csv").read_bytes()
    (hospital / "NOTEEVENTS.csv").write_bytes(data.removesuffix(b"TEXT\r\n") + NOT_UTF8 + b"\r\n")
    store = create_store(folder / "w.duckdb", hospital, "mimic3")
    sync(store)
    return store, embed_pending(store, OnnxEncoder(model, "cpu"))


def test_every_note_is_accounted_for(embedded):
    store, counts = embedded
    assert store.one("SELECT count(*) FROM notes") == (len(POISON) + 1,)
    (excluded,) = store.one("SELECT count(*) FROM notes WHERE status = 'excluded'")
    assert counts["embedded"] + counts["unchanged"] + excluded == len(POISON) + 1
    assert counts["waiting"] == 0
    assert verify(store) == []


@pytest.mark.parametrize("no", range(len(POISON) + 1), ids=[*POISON, "not UTF-8"])
def test_a_bad_note_is_embedded_or_excluded_with_a_reason(embedded, no):
    store, _ = embedded
    kind = [*POISON, "not UTF-8"][no]
    reason, windows, tokens = store.one(
        "SELECT any_value(n.reason), count(e.window_no), sum(e.n_tokens) FROM notes AS n "
        "LEFT JOIN embeddings AS e USING (note_id) WHERE n.note_id = $no",
        no=str(no),
    )
    if kind in EXCLUDED:
        assert (reason, windows) == (EXCLUDED[kind], 0)
    elif reason is not None:
        # It depends on the tokenizer whether a text has tokens; without tokens it has no vector.
        assert (reason, windows) == ("no words", 0)
    else:
        assert windows > 0 and tokens >= 3 * windows
    if kind == "ten megabytes":
        assert windows > 10_000
