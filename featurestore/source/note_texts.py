"""What is computed from the text of a note, whatever database it comes from."""

import hashlib

BLANKS = " \t\r\n\f\v"
TEXTS_PER_LIST = 256
NOT_UTF8 = "not UTF-8"


def text_hash(text: str) -> str:
    """Return the MD5 of a text in hex, as databases compute it; it detects changed notes."""
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def utf8_or_bytes(value: bytes) -> str | bytes:
    """Return bytes as text if they are UTF-8, else unchanged."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def note_text(value: object) -> tuple[str, bool]:
    """Return a database's value as the text of a note, and whether it is valid.

    Bytes that are not UTF-8, and halves of a character of UTF-16, become replacement characters;
    such a text is not valid.
    """
    if value is None:
        return "", True
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
    else:
        data = str(value).encode("utf-8", "surrogatepass")
    try:
        return data.decode(), True
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace"), False
