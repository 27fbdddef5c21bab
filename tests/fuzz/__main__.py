"""`python -m tests.fuzz SECONDS [TARGET...]`: every target by every engine, for so long in all.

Says what was tried, and exits 1 where something broke, with the input that did it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from tests.fuzz.engines import CORPUS, ROOT, atheris_missing
from tests.fuzz.targets import TARGETS

SPARE = 60  # seconds beyond its time that an engine has to begin, to end, and to make it small
# Of libFuzzer, and of ours.
TRIED = re.compile(r"(?:stat::number_of_executed_units:|tried) *(\d+)")


def run(engine: str, name: str, seconds: float) -> tuple[bool, str]:
    """Whether all went well, and the line that tells of it, with all that it said where not."""
    command = [sys.executable, "-m", "tests.fuzz.engines", engine, name, f"{seconds:.2f}"]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds + SPARE,
        )
    except subprocess.TimeoutExpired as error:
        said = (error.output or b"").decode(errors="replace")
        return False, f"{said}\n{name:14}{engine:12}hangs"
    said = done.stdout.decode(errors="replace")
    tried = TRIED.findall(said)
    if done.returncode or not tried:
        return False, f"{said}\n{name:14}{engine:12}broke"
    return True, f"{name:14}{engine:12}{tried[-1]:>10} inputs"


def main(seconds: float, *names: str) -> int:
    engines = ["hypothesis", "atheris"]
    if missing := atheris_missing():
        print(f"hypothesis alone: {missing}")
        engines.remove("atheris")
    names = names or tuple(TARGETS)
    at_once = os.cpu_count() or 1
    each = seconds * at_once / (len(names) * len(engines))
    with ThreadPoolExecutor(at_once) as pool:
        jobs = [pool.submit(run, engine, name, each) for name in names for engine in engines]
        failed = 0
        for job in jobs:
            well, line = job.result()
            failed += not well
            print(line, flush=True)
    if failed:
        print(f"{failed} broke; add the input to {CORPUS.relative_to(ROOT)}/TARGET.txt")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), *sys.argv[2:]))
