"""An authority for tests, and certificates that it signed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


@dataclass(frozen=True, slots=True)
class Certificate:
    """Files in PEM: a certificate with its chain, its key, and the authority that signed it."""

    chain: Path
    key: Path
    authority: Path


class Authority:
    """Signs certificates, and writes them to files in `folder`."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self._ca = trustme.CA()
        self.file = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(self.file)

    def certificate(
        self,
        *names: str,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        intermediate: bool = False,
    ) -> Certificate:
        """A certificate for these host names and addresses; its times are UTC."""
        ca = self._ca.create_child_ca() if intermediate else self._ca
        signed = ca.issue_cert(*names, not_before=not_before, not_after=not_after)
        stem = self._folder / names[0].replace(":", "-").replace("*", "any")
        made = Certificate(
            stem.with_name(f"{stem.name}.cert.pem"),
            stem.with_name(f"{stem.name}.key.pem"),
            self.file,
        )
        for number, blob in enumerate(signed.cert_chain_pems):
            blob.write_to_path(made.chain, append=number > 0)
        signed.private_key_pem.write_to_path(made.key)
        return made

    def expired(self, *names: str) -> Certificate:
        """A certificate that ended yesterday."""
        now = datetime.now(UTC)
        return self.certificate(
            *names, not_before=now - timedelta(days=9), not_after=now - timedelta(days=1)
        )


def self_signed(folder: Path, *names: str) -> Certificate:
    """A certificate that nobody but itself vouches for; names only, no addresses."""
    return sign_itself(folder, [x509.DNSName(name) for name in names])


def sign_itself(folder: Path, names: list[x509.GeneralName]) -> Certificate:
    """The same for any kind of names, or for none."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mx1.test")])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    signed = builder.sign(key, SHA256())
    made = Certificate(
        folder / "self-signed.cert.pem",
        folder / "self-signed.key.pem",
        folder / "self-signed.cert.pem",
    )
    made.chain.write_bytes(signed.public_bytes(Encoding.PEM))
    made.key.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    )
    return made
