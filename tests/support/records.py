"""TLS records that no library would send, from a client whose handshake a library has done.

Sources: RFC 5246 sections 5 and 6.3 with RFC 5288 (TLS 1.2, AES-GCM), RFC 8446 sections 5 and 7.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from OpenSSL import SSL

ALERT, HANDSHAKE, DATA = 21, 22, 23
KEY_UPDATE = b"\x18\x00\x00\x01\x00"  # nobody else's is asked for


class Secrets:
    """What a context lets its connections write down: `client` is that of the traffic it sends."""

    def __init__(self, context: SSL.Context) -> None:
        self.client = b""
        context.set_keylog_callback(self._note)

    def _note(self, _: SSL.Connection, line: bytes) -> None:
        label, _random, secret = line.split()
        if label == b"CLIENT_TRAFFIC_SECRET_0":
            self.client = bytes.fromhex(secret.decode())


class Forger:
    """Seals records in place of a client's `connection`, which from now on sends nothing itself."""

    def __init__(self, connection: SSL.Connection, secrets: Secrets) -> None:
        cipher = connection.get_cipher_name() or ""
        self._hash = hashes.SHA384() if "384" in cipher else hashes.SHA256()
        self._size = 32 if "256_GCM" in cipher or "256-GCM" in cipher else 16
        self._old = connection.get_protocol_version_name() == "TLSv1.2"
        self._secret = secrets.client
        self._number = 1 if self._old else 0  # Finished was the first of the old one's
        if self._old:
            random = (connection.server_random() or b"") + (connection.client_random() or b"")
            block = self._expanded(connection.master_key() or b"", b"key expansion" + random)
            self._key, self._start = block[: self._size], block[2 * self._size :][:4]
        else:
            self._set_keys()

    def seal(self, kind: int, content: bytes) -> bytes:
        """One record of `kind` with this content, which may be empty."""
        number = self._number.to_bytes(8, "big")
        self._number += 1
        if self._old:
            head = bytes([kind]) + b"\x03\x03"
            sealed = AESGCM(self._key).encrypt(
                self._start + number, content, number + head + len(content).to_bytes(2, "big")
            )
            return head + (8 + len(sealed)).to_bytes(2, "big") + number + sealed
        head = b"\x17\x03\x03" + (len(content) + 1 + 16).to_bytes(2, "big")
        nonce = bytes(a ^ b for a, b in zip(self._start, bytes(4) + number, strict=True))
        return head + AESGCM(self._key).encrypt(nonce, content + bytes([kind]), head)

    def change_keys(self) -> None:
        """What follows a KeyUpdate is sealed with the next secret (RFC 8446 section 7.2)."""
        self._secret = self._labelled(b"traffic upd", self._hash.digest_size)
        self._set_keys()
        self._number = 0

    def _set_keys(self) -> None:
        self._key, self._start = self._labelled(b"key", self._size), self._labelled(b"iv", 12)

    def _labelled(self, label: bytes, size: int) -> bytes:
        """RFC 8446 section 7.1, HKDF-Expand-Label without a context."""
        label = b"tls13 " + label
        info = size.to_bytes(2, "big") + bytes([len(label)]) + label + b"\0"
        return HKDFExpand(self._hash, size, info).derive(self._secret)

    def _expanded(self, secret: bytes, seed: bytes) -> bytes:
        """RFC 5246 section 5: as much as the keys of both sides need."""
        return b"".join(_parts(secret, seed, self._hash.name))


def _parts(secret: bytes, seed: bytes, name: str) -> Iterator[bytes]:
    step = seed
    for _ in range(4):
        step = hmac.digest(secret, step, name)
        yield hmac.digest(secret, step + seed, name)
