"""CRC-32C (Castagnoli), the checksum of RFC 3720 appendix B.4."""

from __future__ import annotations

_POLYNOMIAL = 0x82F63B78  # its bits reversed, as the checksum takes the lowest bit first


def crc32c(data: bytes) -> int:
    """The checksum of `data`, 32 bits."""
    crc = 0xFFFFFFFF
    for octet in data:
        crc = _TABLE[(crc ^ octet) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _entry(crc: int) -> int:
    for _ in range(8):
        crc = (crc >> 1) ^ (_POLYNOMIAL if crc & 1 else 0)
    return crc


_TABLE = tuple(map(_entry, range(256)))
