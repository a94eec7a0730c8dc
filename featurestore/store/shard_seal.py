"""The seal of a shard: by it a store knows what is its own, and an encrypted one hides it."""

import hmac
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from featurestore.errors import FeatureStoreError
from featurestore.store.store import Store

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

Buffer = bytes | memoryview

SUFFIX = ".shard"
_MARK, _NONCE = 32, 12  # bytes


class ShardSeal:
    """Closes and opens the shards of one store.

    A shard of a plain store ends with a mark, an HMAC-SHA-256 under the store's secret over the
    content and its place (encoder and number): no other store's, none that was moved or changed,
    and none that somebody else wrote, has it. A shard of an encrypted store is AES-256-GCM under a
    key that is made of that secret, and so lies in the encrypted file alone.
    """

    def __init__(self, store: Store) -> None:
        self._key = hmac.digest(store.secret(), b"shards", "sha256")
        self._encrypted = store.is_encrypted()

    def closed(self, file: Path, content: Buffer) -> Iterable[Buffer]:
        """What is to be written into the file, part after part."""
        if not self._encrypted:
            return content, self._mark(file, content)
        nonce = os.urandom(_NONCE)
        return nonce, self._cipher().encrypt(nonce, content, _place(file))

    def opened(self, file: Path) -> Buffer:
        """What was closed into the file. Raises FeatureStoreError where it is not this store's."""
        written = memoryview(file.read_bytes())
        if self._encrypted:
            from cryptography.exceptions import InvalidTag

            try:
                return self._cipher().decrypt(written[:_NONCE], written[_NONCE:], _place(file))
            except (InvalidTag, ValueError):  # ValueError: hardly a byte is left of it
                pass
        else:
            content, mark = written[:-_MARK], written[-_MARK:]
            if hmac.compare_digest(self._mark(file, content), mark):
                return content
        raise FeatureStoreError(
            f"{file} is damaged, or no shard of this store - delete it; its notes are then "
            "embedded again"
        )

    def _mark(self, file: Path, content: Buffer) -> bytes:
        mark = hmac.new(self._key, _place(file), "sha256")
        mark.update(content)
        return mark.digest()

    def _cipher(self) -> "AESGCM":
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        return AESGCM(self._key)


def _place(file: Path) -> bytes:
    """Whose vectors a shard holds, and its number: name of the folder and of the file."""
    return f"{file.parent.name}/{file.name}".encode()
