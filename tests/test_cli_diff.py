"""smtpproxy diff."""

from __future__ import annotations

import pytest

from smtpproxy.cli import main

HEAD = "pattern;server;tls;percent;shadow;note"
OLD = ["example.com;a.test", "b@example.com;b.test:2525;may", "c@example.com;c.test", "*;d.test"]


@pytest.fixture
def diff(tmp_path, monkeypatch, capsys):
    """Run it on the rows of two files; status, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(old: list[str], new: list[str], *options: str) -> tuple[int, str, str]:
        for name, rows in (("old.csv", old), ("new.csv", new)):
            (tmp_path / name).write_text("\n".join([HEAD, *rows, ""]))
        status = main(["diff", *options, "old.csv", "new.csv"])
        return status, *capsys.readouterr()

    return run


def test_both_say_the_same(diff):
    new = ["# another order", *reversed(OLD)]
    new[-1] = "@EXAMPLE.com;A.test:25;;100;;a note"
    assert diff(OLD, new) == (0, "added    0\nremoved  0\nmoved    0\n", "")


def test_counts_then_rows(diff):
    new = [
        *("example.com;a.test,a2.test", "b@example.com;b.test:2525", "*;d.test;;50;e.test"),
        *("d@example.com;a.test;none", "e@example.com;a.test"),
    ]
    assert diff(OLD, new) == (
        1,
        "added    2\nremoved  1\nmoved    3\n"
        "\nadded\n"
        "  new.csv:5: d@example.com: a.test:25 tls=none\n"
        "  new.csv:6: e@example.com: a.test:25\n"
        "\nremoved\n"
        "  old.csv:4: c@example.com: c.test:25\n"
        "\nmoved\n"
        "  new.csv:2: example.com: a.test:25 -> a.test:25,a2.test:25\n"
        "  new.csv:3: b@example.com: b.test:2525 tls=may -> b.test:2525\n"
        "  new.csv:4: *: d.test:25 -> d.test:25 percent=50 shadow=e.test:25\n",
        "",
    )


def test_not_all_rows_are_printed(diff):
    new = [f"user{number}@example.net;a.test" for number in range(60)]
    status, out, _ = diff([], new)
    assert status == 1
    assert out.count("example.net") == 50
    assert out.endswith("  and 10 more: see --most\n")
    assert diff([], new, "--most", "60")[1].count("example.net") == 60
    assert diff([], new, "--most", "0")[1].endswith("added\n  and 60 more: see --most\n")


def test_faults_of_both_files(diff, tmp_path):
    status, out, err = diff(["x;:"], ["@y@;a.test"])
    assert (status, out) == (2, "")
    assert [line.partition(": ")[0] for line in err.splitlines()] == ["old.csv:2", "new.csv:2"]
    (tmp_path / "none.csv").unlink(missing_ok=True)
    assert main(["diff", "none.csv", "none.csv"]) == 2
