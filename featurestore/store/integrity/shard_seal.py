"""The seal of a shard: a store accepts only its own shards, and an encrypted store hides them."""

import hmac
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from featurestore.errors import StoreDamagedError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

Buffer = bytes | memoryview

SUFFIX = ".shard"
_TAG, _NONCE = 32, 12  # bytes


class ShardSeal:
    """Seal and open the shards of one store with its key (32 bytes).

    A plain shard ends with an HMAC-SHA-256 over its content, its encoder and its number. A shard
    that was moved, changed, or written for another store does not match. An encrypted shard is
    AES-256-GCM, authenticated in the same way.
    """

    def __init__(self, key: bytes, encrypted: bool) -> None:
        self._key = key
        self._encrypted = encrypted

    def seal(self, file: Path, content: Buffer) -> Iterable[Buffer]:
        """Return the parts to write into the file, in order."""
        if not self._encrypted:
            return content, self._tag(file, content)
        nonce = os.urandom(_NONCE)
        return nonce, self._cipher().encrypt(nonce, content, _identity(file))

    def open(self, file: Path) -> Buffer:
        """Return the content of a sealed file; raise StoreDamagedError if it does not match."""
        sealed = memoryview(file.read_bytes())
        if self._encrypted:
            from cryptography.exceptions import InvalidTag

            try:
                return self._cipher().decrypt(sealed[:_NONCE], sealed[_NONCE:], _identity(file))
            except (InvalidTag, ValueError):  # ValueError: the file is too short.
                pass
        else:
            content, tag = sealed[:-_TAG], sealed[-_TAG:]
            if hmac.compare_digest(self._tag(file, content), tag):
                return content
        raise StoreDamagedError(
            f"{file} is damaged, or not a shard of this store - delete it; its notes are then "
            "embedded again"
        )

    def read_table(self, file: Path) -> pa.Table:
        """Return the rows of a sealed Arrow file; raise StoreDamagedError if it does not match."""
        return pa.ipc.open_file(pa.BufferReader(self.open(file))).read_all()

    def _tag(self, file: Path, content: Buffer) -> bytes:
        tag = hmac.new(self._key, _identity(file), "sha256")
        tag.update(content)
        return tag.digest()

    def _cipher(self) -> "AESGCM":
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        return AESGCM(self._key)


def _identity(file: Path) -> bytes:
    """Return the encoder and the number of a shard, from the names of its folder and file."""
    return f"{file.parent.name}/{file.name}".encode()
