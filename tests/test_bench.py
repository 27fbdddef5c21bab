"""The benchmark runs, and says what it is for.  How long things take is not judged here."""

from __future__ import annotations

import json

from bench.__main__ import main
from bench.figures import Figure, collected, table
from tests.support.needs import need


def test_figures_of_several_runs_become_one():
    first, second = (Figure("a", "ms", (value,), 50.0) for value in (3.0, 51.25))
    (figure,) = collected([[first], [second], [Figure("a", "ms", (4.0,), 50.0)]])
    assert figure == Figure("a", "ms", (3.0, 51.25, 4.0), 50.0)
    assert (figure.median, figure.worst, figure.reached) == (4.0, 51.25, False)
    assert table([figure, Figure("b", "s", (1234.5,))]).splitlines()[2:] == [
        "| a | 4 ms | 51.2 ms | 50 ms (missed) |",
        "| b | 1234 s | 1234 s |  |",
    ]


def test_a_small_run(tmp_path, capsys):
    need("mariadbd", "mariadb-install-db", "mariadb", "smtp-sink")
    file = tmp_path / "bench.json"
    few = {"--rows": 500, "--database-rows": 500, "--repeat": 1, "--reloads": 2, "--json": file}
    main([str(each) for option in few.items() for each in option])
    figures = {each["name"]: each for each in json.loads(file.read_text())["figures"]}
    shown = [
        line.split(" | ")[0].removeprefix("| ") for line in capsys.readouterr().out.split("\n")
    ]
    assert shown[2:-1] == list(figures)
    assert all(value >= 0 for each in figures.values() for value in each["values"])
    stall = figures["csv: longest wait for a reply to NOOP, during a reload"]
    assert (stall["unit"], stall["goal"], len(stall["values"])) == ("ms", 50.0, 2)
    for kind in ("csv", "sqlite", "mysql over TCP"):
        assert any(name.startswith(f"{kind}: look-up") for name in figures)
