"""Texts of attachments: character sets, and HTML as a browser would show it."""

import duckdb
import pytest

from featurestore.source.attachments import decoded_text, html_text
from featurestore.source.source import Source
from tests.featurestore.source.test_databases import load_duckdb
from tests.hospital import admission, note, own_schema, write_hospital


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>one</p><p>two<br/>three</p>", "one\ntwo\nthree"),
        ("<div>\n  one\n  <b>bo</b>ld\n</div>", "one bold"),
        ("<ul><li>a</li><li>b</li></ul>", "a\nb"),
        ("<table><tr><td>Na</td><td>140</td></tr><tr><td>K</td><td>4</td></tr></table>",
         "Na 140\nK 4"),
        ("<html><head><title>t</title><style>p {}</style></head><body>b</body></html>", "b"),
        ("a<script>if (b < c) {}</script>d<!-- e > f -->g<STYLE>h</STYLE>", "adg"),
        ("<header>kept</header>", "kept"),
        ('<a title="x > y" href=\'z\'>link</a>', "link"),
        ("BP <120 and >80, a < b", "BP <120 and >80, a < b"),
        ("&lt;b&gt; &amp;lt; &deg; &micro; &#252; &#xfc; &hellip;", "<b> &lt; ° µ ü ü …"),
        ("&#128; &#x80;", "€ €"),
        ("&unknown; R&D", "&unknown; R&D"),
        ("a&nbsp;b\u00a0c", "a b c"),
        ("&#55357; &#0;", "\ufffd \ufffd"),
        ("<pre>a\n  b   c</pre>", "a\n  b   c"),
        ("<p style='white-space: pre-wrap'>a\n  b</p>", "a\n  b"),
        ("<!DOCTYPE html><?xml version='1.0'?><p>a", "a"),
        ("plain", "plain"),
        ("<p> &nbsp; </p>", ""),
    ],
)  # fmt: skip
def test_the_text_of_html(html, text):
    assert html_text(html) == text


@pytest.mark.parametrize(
    ("content", "charset", "text"),
    [
        (b"\xfcber \x80", "ISO-8859-1", "über €"),
        (b"\xfcber", "iso-8859-15", "über"),
        ("漢".encode("shift_jis"), "Shift_JIS", "漢"),
        (b"\xff", "utf-8", None),
        (b"\x81", "windows-1252", None),
        (b"a", "klingon", None),
        (b"a", "base64", None),
        (b"+2D0-", "utf-7", None),
        (b"a", None, None),
        (None, "utf-8", None),
    ],
)
def test_character_sets(content, charset, text):
    assert decoded_text(content, charset) == text


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_the_statements_of_other_schemas_may_call_the_functions(tmp_path, kind):
    source = write_hospital(tmp_path / "csv", [admission(7)], [note(1, 7, "<p>37&deg;</p>")])
    if kind == "file":
        with duckdb.connect(str(tmp_path / "hospital.duckdb")) as con:
            load_duckdb(con, source)
        source = tmp_path / "hospital.duckdb"
    schema = own_schema(
        tmp_path / "schema",
        "    text\n",
        "    html_text(decoded_text(encode(text), 'utf-8')) AS text\n",
    )
    assert list(Source(source, schema).texts(["1"])) == [[("1", "37°")]]
