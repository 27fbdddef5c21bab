"""Two ways to make up bytes: hypothesis, of words, and atheris (libFuzzer), by what is reached.

`python -m tests.fuzz.engines ENGINE TARGET SECONDS` is one run of one; it says on its last line how
many inputs it tried, or says which one breaks something, and exits 1.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT / "tests/fuzz/corpus"
FOUND = ROOT / "build/fuzz"

LONGEST = 4096  # octets of an input
MEGABYTES = 2048  # that a run may take
ONE_INPUT = 20  # seconds that it may take

Check = Callable[[bytes], None]


def atheris_missing() -> str:
    """Why atheris cannot be used here; "" where it can."""
    if importlib.util.find_spec("atheris") is None:
        return "atheris is not installed; there are wheels for Linux on x86-64"
    try:
        import atheris  # noqa: F401
    except ImportError as error:
        return f"atheris does not load: {error}"
    return ""


def corpus(name: str) -> list[bytes]:
    """The inputs of a target that are kept: a literal of Python's on each line of its file."""
    lines = (CORPUS / f"{name}.txt").read_text().splitlines()
    return [ast.literal_eval(line) for line in lines if line and not line.startswith("#")]


def by_hypothesis(name: str, seconds: float) -> int:
    """Words of the target in any order, with any bytes between them; how many inputs."""
    from tests.fuzz.targets import TARGETS

    target = TARGETS[name]
    until = time.monotonic() + seconds
    tried = 0
    broke = b""
    pieces = st.one_of(*[st.sampled_from(target.words)] * 5, st.binary(max_size=6))
    inputs = st.builds(
        lambda first, words: bytes(first) + b"".join(words),
        st.tuples(st.sampled_from([0, 1, 2, 3, 5, 9, 60, 255]), st.integers(0, 255)),
        st.lists(pieces, max_size=30),
    )

    @settings(
        max_examples=200,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs)
    def some(data: bytes) -> None:
        nonlocal tried, broke
        tried += 1
        try:
            target(data)
        except Exception:
            broke = data  # the last one is the smallest
            raise

    try:
        while time.monotonic() < until:
            seed(time.monotonic_ns())(some)()
    except Exception:
        print(f"the input: {broke!r}")
        raise
    return tried


def by_atheris(name: str, seconds: float) -> None:
    """From the corpus on, what reaches code that was not reached; ends the program."""
    import atheris

    with atheris.instrument_imports(include=["smtpproxy"], enable_loader_override=False):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]

    def tell(data: bytes) -> None:
        try:
            target(data)
        except Exception:
            print(f"the input: {data!r}", flush=True)
            raise

    words = FOUND / f"{name}.words"
    lines = ("".join(f"\\x{octet:02x}" for octet in word) for word in dict.fromkeys(target.words))
    words.write_text("".join(f'"{line}"\n' for line in lines if len(line) < 500))
    learnt = FOUND / name
    learnt.mkdir(exist_ok=True)
    for data in corpus(name):
        (learnt / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    atheris.Setup(
        [
            *("fuzz", f"-max_total_time={max(1, round(seconds))}", f"-max_len={LONGEST}"),
            *(f"-timeout={ONE_INPUT}", f"-rss_limit_mb={MEGABYTES}", f"-dict={words}"),
            *(f"-artifact_prefix={FOUND}/{name}-", "-print_final_stats=1"),
            str(learnt),
        ],
        tell,
    )
    atheris.Fuzz()


def main(engine: str, name: str, seconds: str) -> None:
    FOUND.mkdir(parents=True, exist_ok=True)
    if engine == "atheris":
        by_atheris(name, float(seconds))
    print(f"tried {by_hypothesis(name, float(seconds))}")


if __name__ == "__main__":
    main(*sys.argv[1:])
