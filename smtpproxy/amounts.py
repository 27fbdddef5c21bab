"""Times, sizes and numbers as people read them, on a narrow screen, too."""

from __future__ import annotations

_SPANS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"))
_SIZES = ("B", "kB", "MB", "GB", "TB", "PB")
_COUNTS = ("", "k", "M", "G", "T")


def span(seconds: float) -> str:
    """`0.3 ms`, `340 ms`, `1.2 s`, `45 s`, `5 min`, `3 h`, `2 d`."""
    if seconds < 0.00995:
        return f"{max(0.0, seconds) * 1000:.1f} ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    for size, unit in _SPANS:
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{seconds:.0f} s"


def octets(number: int) -> str:
    """`512 B`, `1.2 MB`: powers of 1000."""
    return _scaled(number, _SIZES)


def short(number: int) -> str:
    """`999`, `1.2 k`, `34 M`."""
    return _scaled(number, _COUNTS).rstrip()


def _scaled(number: int, units: tuple[str, ...]) -> str:
    value, power = float(number), 0
    while value >= 999.5 and power < len(units) - 1:
        value /= 1000
        power += 1
    digits = 1 if power and value < 9.95 else 0
    return f"{value:.{digits}f} {units[power]}"
