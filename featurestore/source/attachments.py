"""The text of attachments, bytes in any character set and HTML: functions for DuckDB's SQL."""

import html
import re
from typing import Any

_INVISIBLE = re.compile(
    r"<(script|style|head|template)\b.*?</\1\s*>|<!--.*?-->", re.IGNORECASE | re.DOTALL
)
_PREFORMATTED = re.compile(r"<pre\b|white-space:\s*pre", re.IGNORECASE)
_BREAKS = re.compile(
    r"</?(?:address|article|aside|blockquote|br|caption|d[dlt]|div|fieldset|figure|footer|form"
    r"|h[1-6]|header|hr|li|main|nav|ol|p|pre|section|table|tr|ul)\b[^<>]*>",
    re.IGNORECASE,
)
_CELL_ENDS = re.compile(r"</t[dh]\s*>", re.IGNORECASE)
# A tag starts with a letter: "BP <120 and >80" is none. A > may stand in a quoted attribute.
_TAGS = re.compile(
    r"""<[/!?]?[a-z](?:[^<>"']|"[^"]*"|'[^']*')*>|<[/!?]?[a-z][^<>]*>""", re.IGNORECASE
)
# Browsers read as Windows-1252 what is declared as one of these.
_WINDOWS_1252 = ("ascii", "us-ascii", "iso-8859-1", "iso8859-1", "latin1")


def decoded_text(content: bytes | None, charset: str | None) -> str | None:
    """Return the text of bytes; None if they are invalid or the character set is unknown."""
    if content is None or charset is None:
        return None
    if charset.lower() in _WINDOWS_1252:
        charset = "windows-1252"
    try:
        text = content.decode(charset)
        text.encode()  # some character sets can spell half a surrogate pair
    except (LookupError, UnicodeError):
        return None
    return text


def html_text(document: str) -> str:
    """Return the text that a browser would show of an HTML document or fragment.

    Each block and line break starts a line. Other white space is one space, but stays as it is in
    documents with preformatted text. A non-breaking space becomes a space.
    """
    visible = _INVISIBLE.sub("", document)
    if not _PREFORMATTED.search(visible):
        visible = " ".join(visible.split())
    visible = _CELL_ENDS.sub(" ", _BREAKS.sub("\n", visible))
    text = html.unescape(_TAGS.sub("", visible)).replace("\xa0", " ")
    lines = (line.rstrip() for line in text.split("\n"))
    return "\n".join(line for line in lines if line).strip()


def create_functions(connection: Any) -> None:
    """Let the SQL of a DuckDB connection call `decoded_text` and `html_text`."""
    connection.create_function(
        "decoded_text", decoded_text, ["BLOB", "VARCHAR"], "VARCHAR", null_handling="special"
    )
    connection.create_function("html_text", html_text, ["VARCHAR"], "VARCHAR")
