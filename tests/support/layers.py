"""Which module of smtpproxy may import which.

The layers stand in the order of `LAYERS`; nothing imports from a later one. The wire (`smtp`)
imports the standard library, `values` and itself, so Twisted stays out of it. Only the top touches
the reactor that is there for all; the others are given theirs.

`python -m tests.support.layers` prints each fault and exits 1 if there is one.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

WIRE = "smtp"
BELOW = "values"  # what all others, the wire too, are made with
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({BELOW}),
    frozenset({WIRE, "mail"}),
    # leaves that every layer above the wire may use
    frozenset({"deadlines", "dns", "events", "faults", "networks", "stream", "tap", "tasks"})
    | {"redis", "store", "threads", "tls", "transport"},
    frozenset({"routing", "policy"}),
    frozenset({"upstream"}),
    frozenset({"relay"}),
    frozenset({"listener"}),
    # the top, where "" is the package itself
    frozenset(
        {
            "",
            "__main__",
            "activation",
            "administration",
            "amounts",
            "announcing",
            "certificate",
            "chain",
            "cli",
            "config",
            "control",
            "demo",
            "descriptors",
            "explain",
            "feed",
            "logs",
        }
    )
    | {
        "doors",
        "fittings",
        "generation",
        "lasting",
        "limits",
        "metrics",
        "notify",
        "opening",
        "parts",
        "periodic",
        "program",
        "recent",
        "redaction",
        "reload",
        "request",
        "service",
        "shadow_counts",
        "sharing",
        "sockets",
        "status",
        "steady",
        "succession",
        "tails",
        "upkeep",
        "watched",
        "web",
        "workers",
    },
)
LEVELS = {name: level for level, names in enumerate(LAYERS) for name in names}
TOP = len(LAYERS) - 1


def imports(source: str, module: str, package: bool) -> Iterator[tuple[int, str]]:
    """The line and the full name of each import in `source`, which is the module `module`.

    `from a import b` gives `a.b`, since `b` may be a module; a relative import is made absolute.
    """
    home = module.split(".") if package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = home[: len(home) - node.level + 1] if node.level else []
            named = [node.module] if node.module else []
            for alias in node.names:
                yield node.lineno, ".".join([*base, *named, alias.name])


def layer_of(module: str) -> str:
    """`smtpproxy.relay.delivery` is of the layer `relay`, `smtpproxy.tls` of `tls`."""
    return module.partition(".")[2].partition(".")[0]


def faults_of(source: str, module: str, package: bool = False) -> Iterator[tuple[int, str]]:
    """Line and text of each import in `source` that the layers forbid."""
    layer = layer_of(module)
    if layer not in LEVELS:
        yield 1, f"{module} is of no layer: name it in {Path(__file__).relative_to(ROOT)}"
        return
    for line, name in imports(source, module, package):
        first = name.partition(".")[0]
        if first == "smtpproxy":
            other = layer_of(name)
            if other not in LEVELS:  # `from smtpproxy import __version__`
                other = ""
            if layer == WIRE and other not in (WIRE, BELOW):
                yield line, f"{module} imports {name}: the wire imports only itself"
            elif LEVELS[other] > LEVELS[layer] and other != "":
                yield line, f"{module} imports {name}, which is of a layer to its right"
        elif layer in (WIRE, BELOW) and first not in sys.stdlib_module_names:
            yield line, f"{module} imports {name}: the wire is standard library only"
        elif name == "twisted.internet.reactor" and LEVELS[layer] != TOP:
            yield line, f"{module} imports the reactor: it must be given one"


def check(root: Path = ROOT) -> Iterator[str]:
    """Each fault in the package under `root`, as `file:line: text`."""
    for path in sorted(root.glob("smtpproxy/**/*.py")):
        place = path.relative_to(root)
        package = place.name == "__init__.py"
        module = ".".join((place.parent if package else place.with_suffix("")).parts)
        for line, text in faults_of(path.read_text(encoding="utf-8"), module, package):
            yield f"{place}:{line}: {text}"


if __name__ == "__main__":
    found = list(check())
    print("\n".join(found) or "Each layer imports only what is below it")
    sys.exit(1 if found else 0)
