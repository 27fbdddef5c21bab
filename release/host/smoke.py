"""Does this release take mail by TLS, on this machine, with the site's certificates?

    bin/python smoke.py CONFIG

For each certificate of the configuration, or for one of its own making where there is none, the
proxy is started on a free port of 127.0.0.1, and spoken to: EHLO, STARTTLS, EHLO, QUIT. No mail is
sent, and no server connected to.
"""

from __future__ import annotations

import os
import smtplib
import ssl
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from json import dumps
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from smtpproxy.cli.demo_proxy import DidNotStart, Proxy
from smtpproxy.config import load
from smtpproxy.faults import Faults

_PATIENCE = 10.0  # seconds for each answer
_NAME = "smtpproxy.test"


def main(file: Path) -> int:
    """0 where all is well; says what is and what is not."""
    try:
        with tempfile.TemporaryDirectory(prefix="smtpproxy-") as name:
            for shown, certificate, key in _certificates(file, Path(name)):
                print(f"STARTTLS with {shown}: {_tried(Path(name), certificate, key)}")
    except (Faults, DidNotStart, OSError, smtplib.SMTPException) as error:
        print(f"smoke test: {error or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


def _certificates(file: Path, folder: Path) -> Iterator[tuple[str, str, str]]:
    """What to call it, and the files of each certificate and its key."""
    listeners = load(file, os.environ).listeners
    found = {(str(each.tls_cert), str(each.tls_key)) for each in listeners if each.tls_cert}
    for certificate, key in sorted(found):
        yield certificate, certificate, key
    if not found:
        yield "a certificate of its own making", *_throw_away(folder)


def _tried(folder: Path, certificate: str, key: str) -> str:
    """The version of TLS that was spoken."""
    config = folder / "smoke.toml"
    config.write_text(
        f'domain = "{_NAME}"\n'
        "[dns]\nreverse = false\n"
        f'[[listeners]]\nlisten = "127.0.0.1:0"\nextensions = ["+STARTTLS"]\n'
        f"tls_cert = {dumps(certificate)}\ntls_key = {dumps(key)}\n"
        f'[[mappings]]\ntype = "static"\nserver = "192.0.2.1"\n'
        '[upstreams]\nask_every = "0s"\n',
        encoding="utf-8",
    )
    anyone = ssl.create_default_context()  # the name in it is not that of this connection
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    with (
        Proxy(config) as proxy,
        smtplib.SMTP("127.0.0.1", proxy.port, _NAME, timeout=_PATIENCE) as client,
    ):
        client.ehlo()
        client.starttls(context=anyone)
        code, text = client.ehlo()
        if code != 250:
            raise smtplib.SMTPResponseException(code, text)
        assert isinstance(client.sock, ssl.SSLSocket)
        return client.sock.version() or "TLS"


def _throw_away(folder: Path) -> tuple[str, str]:
    """A certificate for an hour, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, _NAME)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .sign(key, SHA256())
    )
    files = folder / "cert.pem", folder / "key.pem"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return str(files[0]), str(files[1])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
