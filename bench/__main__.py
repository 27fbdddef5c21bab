"""`python -m bench`: measures, prints the table, and writes all values to a file beside it."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from bench.figures import Figure, collected, heard, table, write


def main(arguments: list[str] | None = None) -> int:
    """Measure; 1 where a goal was missed."""
    asked = _parser().parse_args(arguments)
    runs = [_run("bench.loading", asked.rows) for _ in range(asked.repeat)]
    runs += [_run("bench.databases", asked.database_rows) for _ in range(asked.repeat)]
    runs += [_run("bench.reloading", asked.rows, asked.reloads)]
    figures = collected(runs)
    sys.stdout.write(table(figures))
    if asked.json:
        write(asked.json, figures, rows=asked.rows, database_rows=asked.database_rows)
    return 0 if all(each.reached for each in figures) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m bench", description=main.__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the CSV file")
    parser.add_argument("--database-rows", type=int, default=100_000, help="of a database's table")
    parser.add_argument("--repeat", type=int, default=3, help="how often loads and look-ups run")
    parser.add_argument("--reloads", type=int, default=5, help="of the running proxy")
    parser.add_argument("--json", type=Path, help="a file for all values")
    return parser


def _run(module: str, *arguments: int) -> list[Figure]:
    """What a measurement says that runs in a process of its own."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(  # noqa: S603 (a module of our own, and numbers)
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise SystemExit(f"{module} failed")
    return heard(done.stdout)


if __name__ == "__main__":
    sys.exit(main())
