"""Files of rows that are edited while the program runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count
from pathlib import Path
from threading import get_ident
from typing import Any

import pytest
from twisted.logger import capturedLogs
from twisted.python.failure import Failure

from smtpproxy.faults import Faults
from smtpproxy.reload import LOOK_EVERY, Outcome, Reloader
from smtpproxy.routing import CsvTable, Found, KeyedMapping, Question
from smtpproxy.routing.regex import RegexMapping, RegexTable
from smtpproxy.smtp.paths import parse_path
from smtpproxy.tasks import start
from smtpproxy.threads import Stopped, Threads
from smtpproxy.watched import MOST_TOLD, WatchedFile, read_all, signature
from tests.support.turns import Turns

SEEN_WITHIN = 5  # seconds
TEN = {f"u{number}@example.com": "one.test" for number in range(10)}
_seconds = count(1_700_000_000)


def write(path: Path, rows: dict[str, str] | str) -> Path:
    """Edit a file in place; each time a second later, however fast the test is."""
    if not isinstance(rows, str):
        rows = "pattern;server\n" + "".join(f"{key};{server}\n" for key, server in rows.items())
    path.write_text(rows)
    now = next(_seconds)
    os.utime(path, (now, now))
    return path


class Scene:
    """Watched files, and what is told of them."""

    def __init__(self, *files: Path, max_shrink: float = 0.5) -> None:
        self.turns = Turns()
        self.threads = Threads(self.turns, "reload", most=1)
        self.told: list[Outcome] = []
        self.mappings: list[Any] = []
        self.before_load: Callable[[], object] = lambda: None
        self.while_loading: Callable[[], object] = lambda: None
        self.loads = 0
        watched = [self._watch(file, max_shrink) for file in files]
        self.watched = watched
        self.reloader = Reloader(
            lambda: watched, self.renew, self.threads, self.turns, self.told.append
        )
        self.reloader.start()

    async def renew(self, force: bool) -> Outcome:
        """As the program has it, but for configuration and certificates."""
        try:
            read = await self.threads.run(lambda _: read_all(self.watched, force))
        except Faults as error:
            return Outcome(False, tuple(map(str, error.faults)))
        lines = tuple(line for _, change in read for line in change.take())

        def discard(_: object) -> None:
            for _, change in read:
                change.discard()

        await self.threads.run(discard)
        return Outcome(True, lines)

    def _watch(self, file: Path, max_shrink: float) -> WatchedFile:
        def load() -> CsvTable:
            self.loads += 1
            self.before_load()
            table = CsvTable.load(file, file.name)
            self.while_loading()
            return table

        seen = signature(file)
        mapping = KeyedMapping(f"csv {file.name}", CsvTable.load(file, file.name))
        self.mappings.append(mapping)
        return WatchedFile(mapping, file, load, max_shrink, seen)

    def wait(self, seconds: float = SEEN_WITHIN) -> None:
        """Time passes, and threads do what there is to do."""
        for _ in range(int(seconds / LOOK_EVERY)):
            self.turns.advance(LOOK_EVERY)
            self.finish()

    def finish(self) -> None:
        while len(self.threads):
            self.turns.turn()

    def reload(self, force: bool = False) -> Outcome:
        """Read at once, as on SIGHUP and by the command."""
        return self.turns.until(self.reloader.reload(force))

    def server(self, address: str = "u1@example.com", mapping: int = 0) -> str:
        """Where mail goes now, "" for nowhere."""
        return answered(self.mappings[mapping], address)

    def lines(self) -> list[str]:
        """All that was told since the last time."""
        lines = [line for outcome in self.told for line in outcome.lines]
        self.told.clear()
        return lines


def answered(mapping: Any, address: str) -> str:
    path = parse_path(address)
    assert path is not None
    answer: Any = start(mapping.lookup(Question(path))).result
    return answer.route.upstream.servers[0].host if isinstance(answer, Found) else ""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "mapping.csv", TEN)


@pytest.fixture
def scene(file: Path):
    made = Scene(file)
    yield made
    made.reloader.stop()


def in_place(file: Path, rows: dict[str, str]) -> None:
    write(file, rows)


def by_rename(file: Path, rows: dict[str, str]) -> None:
    os.rename(write(file.with_name("new.csv"), rows), file)


def by_symlink(file: Path, rows: dict[str, str]) -> None:
    """As configuration management and Kubernetes do it: the link itself is replaced."""
    target = write(file.with_name(f"version-{next(_seconds)}.csv"), rows)
    link = file.with_name("link")
    link.symlink_to(target)
    os.rename(link, file)


def with_an_old_date(file: Path, rows: dict[str, str]) -> None:
    """A file put back from a backup is older than what it replaces."""
    os.utime(write(file, rows), (1, 1))


def with_the_date_and_size_of_before(file: Path, rows: dict[str, str]) -> None:
    found = os.stat(file)
    assert write(file, rows).stat().st_size == found.st_size
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))


WAYS = [in_place, by_rename, by_symlink, with_an_old_date, with_the_date_and_size_of_before]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("first", [in_place, by_symlink], ids=["file", "link"])
def test_a_change_is_seen_within_5_seconds(file: Path, way, first) -> None:
    first(file, TEN)
    scene = Scene(file)
    scene.wait(3)
    way(file, {**TEN, "u1@example.com": "two.test"})
    assert scene.server() == "one.test"
    scene.wait(SEEN_WITHIN)
    assert scene.server() == "two.test"
    assert scene.lines() == [f"{file}: 10 rows in force, 10 before"]
    assert scene.loads == 1
    scene.wait(60)
    assert scene.loads == 1, "read again, though nothing has changed"
    assert scene.lines() == []
    scene.reloader.stop()


def test_a_row_that_was_added_and_one_that_was_taken_away(scene: Scene, file: Path) -> None:
    rows = {**TEN, "new@example.com": "two.test"}
    del rows["u1@example.com"]
    write(file, rows)
    scene.wait()
    assert (scene.server("new@example.com"), scene.server()) == ("two.test", "")


def test_a_change_between_the_start_and_the_first_look_is_seen(file: Path) -> None:
    scene = Scene(file)
    write(file, {**TEN, "u1@example.com": "two.test"})
    scene.wait()
    assert scene.server() == "two.test"
    scene.reloader.stop()


def test_a_file_that_is_being_written_is_left_until_it_stands_still(
    scene: Scene, file: Path
) -> None:
    for number in range(10):
        write(file, {**TEN, f"more{number}@example.com": "two.test"})
        scene.wait(1)
    assert scene.loads == 0
    scene.wait(2)
    assert scene.loads == 1
    assert scene.server("more9@example.com") == "two.test"


# At once: SIGHUP, and the command


def test_a_reload_reads_at_once_and_says_what_became_of_each_file(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one.csv", TEN), write(tmp_path / "two.csv", TEN)
    scene = Scene(one, two)
    write(one, {**TEN, "u1@example.com": "two.test"})
    outcome = scene.reload()
    said = tuple(f"{file}: 10 rows in force, 10 before" for file in (one, two))
    assert outcome == Outcome(True, said)
    assert scene.told == [outcome]
    assert (scene.server(), scene.server(mapping=1)) == ("two.test", "one.test")
    scene.reloader.stop()


def test_a_reload_takes_all_files_or_none(tmp_path: Path) -> None:
    """The good one is taken by itself once it has stood still, as it would be without a reload."""
    good, bad = write(tmp_path / "good.csv", TEN), write(tmp_path / "bad.csv", TEN)
    scene = Scene(good, bad)
    write(good, {**TEN, "u1@example.com": "two.test"})
    write(bad, "pattern;server\n*@x;one.test\n")
    outcome = scene.reload()
    assert not outcome.ok
    assert [line.partition(": ")[0] for line in outcome.lines] == ["bad.csv:2"]
    assert (scene.server(), scene.server(mapping=1)) == ("one.test", "one.test")
    scene.wait()
    assert (scene.server(), scene.server(mapping=1)) == ("two.test", "one.test")
    assert scene.lines()[1:] == [f"{good}: 10 rows in force, 10 before"]
    scene.reloader.stop()


def test_a_reload_that_fails_has_nothing_read_again_that_was_read(tmp_path: Path) -> None:
    good, bad = write(tmp_path / "good.csv", TEN), write(tmp_path / "bad.csv", TEN)
    scene = Scene(good, bad)
    write(bad, "pattern;server\n*@x;one.test\n")
    assert not scene.reload().ok
    scene.lines()
    scene.wait(60)
    assert scene.lines() == []
    assert scene.loads == 2, "each was read once, by the reload"
    scene.reloader.stop()


def test_a_reload_reads_what_has_not_changed_as_well(scene: Scene) -> None:
    outcome = scene.reload()
    assert outcome.ok
    assert scene.loads == 1


def test_what_a_reload_has_taken_is_not_read_again(scene: Scene, file: Path) -> None:
    write(file, {**TEN, "u1@example.com": "two.test"})
    scene.reload()
    scene.wait()
    assert scene.loads == 1


def test_two_quick_reloads_come_one_after_the_other(scene: Scene, file: Path) -> None:
    write(file, {**TEN, "u1@example.com": "two.test"})
    first = start(scene.reloader.reload())
    second = start(scene.reloader.reload())
    scene.turns.advance(LOOK_EVERY)  # and a look meanwhile
    scene.before_load = lambda: write(file, {**TEN, "u1@example.com": "three.test"})
    for each in (first, second):
        scene.turns.until(each)
    scene.finish()
    scene.before_load = lambda: None
    scene.wait()
    assert scene.server() == "three.test"


# Faults

BAD = "pattern;server\nu1@example.com;two.test\n*@x.test;one.test\nu2@example.com;one.test:99999\n"


def test_a_file_with_faults_changes_nothing_and_each_is_told_once(scene: Scene, file: Path) -> None:
    write(file, BAD)
    scene.wait()
    assert scene.server() == "one.test"
    lines = scene.lines()
    assert [line.partition(": ")[0] for line in lines] == [
        "mapping.csv:3",
        "mapping.csv:4",
        str(file),
    ]
    assert lines[-1] == f"{file}: not taken for its faults; the old content stays in force"
    scene.wait(60)
    assert (scene.lines(), scene.loads) == ([], 1)
    write(file, {**TEN, "u1@example.com": "two.test"})
    scene.wait()
    assert scene.server() == "two.test"


def test_of_very_many_faults_the_first_are_told(scene: Scene, file: Path) -> None:
    write(file, "pattern;server\n" + "x;y z\n" * (MOST_TOLD + 7))
    scene.wait()
    lines = scene.lines()
    assert lines[MOST_TOLD - 1].startswith("mapping.csv:")
    assert lines[MOST_TOLD].endswith(" more faults")
    assert len(lines) == MOST_TOLD + 2


def test_reloads_that_wait_are_one(scene: Scene, file: Path) -> None:
    """As of many signals: each but the first and the one that waits behind it adds nothing."""
    before = scene.loads
    reloads = [start(scene.reloader.reload()) for _ in range(20)]
    for each in reloads:
        outcome = scene.turns.until(each)
        assert outcome.ok
    assert scene.loads - before <= 2


def test_what_is_no_file_is_a_fault_and_nothing_waits_for_it(scene: Scene, file: Path) -> None:
    file.unlink()
    os.mkfifo(file)
    scene.wait()
    assert "Not a regular file" in scene.lines()[0]
    file.unlink()
    write(file, {**TEN, "u1@example.com": "two.test"})
    scene.wait()
    assert scene.server() == "two.test"


def test_a_reload_tells_faults_again(scene: Scene, file: Path) -> None:
    write(file, BAD)
    scene.wait()
    scene.lines()
    outcome = scene.reload()
    assert not outcome.ok
    assert len(outcome.lines) == 2


def test_the_file_is_gone_and_comes_back(scene: Scene, file: Path) -> None:
    file.unlink()
    scene.wait()
    assert scene.server() == "one.test"
    missing, stays = scene.lines()
    assert missing.endswith(": there is no such file")
    assert "the old content stays" in stays
    scene.wait(30)
    assert scene.lines() == []
    write(file, {**TEN, "u1@example.com": "two.test"})
    scene.wait()
    assert scene.server() == "two.test"


def test_a_link_that_leads_nowhere(scene: Scene, file: Path) -> None:
    file.unlink()
    file.symlink_to(file.with_name("nowhere"))
    scene.wait()
    assert "no such file" in scene.lines()[0]
    write(file.with_name("nowhere"), {**TEN, "u1@example.com": "two.test"})
    scene.wait()
    assert scene.server() == "two.test"


def test_a_file_that_becomes_readable_by_chmod(scene: Scene, file: Path) -> None:
    """Nothing else of it changes.  (Root may read all: so the fault is made here.)"""

    def forbidden() -> None:
        raise PermissionError(13, "Permission denied")

    scene.before_load = forbidden
    write(file, {**TEN, "u1@example.com": "two.test"})
    with capturedLogs() as logged:
        scene.wait()
    assert len(logged) == 1
    scene.before_load = lambda: None
    file.chmod(0o600)
    scene.wait()
    assert scene.server() == "two.test"


def test_a_fault_of_ours_is_told_once_and_looking_goes_on(tmp_path: Path) -> None:
    bad, good = write(tmp_path / "bad.csv", TEN), write(tmp_path / "good.csv", TEN)
    scene = Scene(bad, good)
    write(bad, {**TEN, "u1@example.com": "two.test"})
    write(good, {**TEN, "u1@example.com": "two.test"})

    def fault() -> None:
        if scene.loads == 1:
            raise MemoryError

    scene.before_load = fault
    with capturedLogs() as logged:
        scene.wait()
    assert len(logged) == 1
    assert (scene.server(mapping=0), scene.server(mapping=1)) == ("one.test", "two.test")
    scene.reloader.stop()


# Never half a file


def test_a_file_that_is_written_while_it_is_read_is_not_taken_half(
    scene: Scene, file: Path
) -> None:
    write(file, {"half@example.com": "two.test", **TEN})
    scene.while_loading = lambda: write(file, {"whole@example.com": "two.test", **TEN})
    outcome = scene.reload()
    assert (outcome.ok, outcome.lines) == (
        False,
        (f"{file}: is being written; it is read again once it stands still",),
    )
    assert scene.server("half@example.com") == ""
    scene.while_loading = lambda: None
    scene.wait()
    assert scene.server("whole@example.com") == "two.test"
    assert scene.server("half@example.com") == ""


def test_the_faults_of_half_a_file_are_none(scene: Scene, file: Path) -> None:
    write(file, "pattern;server\nu1@exam")

    def half() -> None:
        write(file, "pattern;server\nu1@example.com")  # one more block comes

    scene.before_load = half
    outcome = scene.reload()
    assert "is being written" in outcome.lines[0]
    assert scene.lines() == list(outcome.lines)
    scene.before_load = lambda: None
    write(file, {**TEN, "u1@example.com": "two.test"})
    scene.wait()
    assert scene.server() == "two.test"


def test_a_file_that_goes_while_it_is_read(scene: Scene, file: Path) -> None:
    write(file, {**TEN, "u1@example.com": "two.test"})
    scene.while_loading = file.unlink
    scene.reload()
    scene.while_loading = lambda: None
    assert scene.server() == "one.test"
    scene.lines()
    scene.wait()
    assert "no such file" in scene.lines()[0]


# Files that shrink


def few(number: int) -> dict[str, str]:
    return dict(list(TEN.items())[:number])


def test_a_file_that_drops_many_keys_is_refused_loudly(scene: Scene, file: Path) -> None:
    write(file, {**few(4), "new@example.com": "two.test"})
    scene.wait()
    assert scene.server("u9@example.com") == "one.test"
    (line,) = scene.lines()
    assert line == (
        f"{file}: NOT TAKEN: it would drop 6 of 10 keys, more than max_shrink allows; "
        "the old content stays in force. If that is meant: smtpproxy reload --force"
    )
    scene.wait(60)
    assert scene.lines() == []
    outcome = scene.reload()
    assert not outcome.ok
    outcome = scene.reload(force=True)
    assert outcome.ok
    assert outcome.lines == (f"{file}: 5 rows in force, 10 before",)
    assert (scene.server("u9@example.com"), scene.server("new@example.com")) == ("", "two.test")


def test_half_of_them_is_not_more_than_half(scene: Scene, file: Path) -> None:
    write(file, few(5))
    scene.wait()
    assert scene.server("u9@example.com") == ""


@pytest.mark.parametrize(("max_shrink", "taken"), [(0.0, False), (1.0, True)])
def test_max_shrink_is_a_setting(file: Path, max_shrink: float, taken: bool) -> None:
    scene = Scene(file, max_shrink=max_shrink)
    write(file, few(9) if not taken else {"other@example.com": "two.test"})
    scene.wait()
    assert (scene.server("u9@example.com") == "") is taken
    scene.reloader.stop()


def test_moved_keys_are_not_dropped(file: Path) -> None:
    """What counts is which keys are there, and neither what they say nor how many there are."""
    scene = Scene(file, max_shrink=0.0)
    write(file, dict.fromkeys(TEN, "two.test"))
    scene.wait()
    assert scene.server() == "two.test"
    scene.reloader.stop()


def test_as_many_other_keys_do_not_hide_that_the_old_ones_are_gone(
    scene: Scene, file: Path
) -> None:
    write(file, {f"other{number}@example.com": "two.test" for number in range(100)})
    scene.wait()
    assert "would drop 10 of 10 keys" in scene.lines()[0]


def test_force_takes_no_faults(scene: Scene, file: Path) -> None:
    write(file, BAD)
    outcome = scene.reload(force=True)
    assert not outcome.ok
    assert scene.server() == "one.test"


# The content


def test_content_that_is_not_in_force_is_given_back_in_the_thread(
    scene: Scene, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one go, and in the loop, a million rows would stop everything."""
    discarded: list[tuple[CsvTable, int]] = []
    monkeypatch.setattr(CsvTable, "discard", lambda it: discarded.append((it, get_ident())))
    old = scene.mappings[0].table
    write(file, {**TEN, "u1@example.com": "two.test"})
    scene.reload()
    assert [content for content, _ in discarded] == [old]
    write(file, few(1))
    scene.reload()
    assert len(discarded) == 2, "what was refused"
    scene.while_loading = lambda: write(file, few(2))
    scene.reload()
    assert len(discarded) == 3, "what was being written"
    assert get_ident() not in [thread for _, thread in discarded]
    assert scene.mappings[0].table not in [content for content, _ in discarded]


def test_expressions_are_watched_as_well(tmp_path: Path) -> None:
    file = write(tmp_path / "regex.csv", {r"u.*@example\.com": "one.test"})
    seen = signature(file)
    mapping = RegexMapping("regex", RegexTable.load(file, "regex.csv"))
    watched = WatchedFile(mapping, file, lambda: RegexTable.load(file, "regex.csv"), 0.5, seen)
    write(file, {r"u.*@example\.com": "two.test"})
    ((_, change),) = read_all([watched], force=False)
    assert answered(mapping, "u1@example.com") == "one.test"
    change.take()
    assert answered(mapping, "u1@example.com") == "two.test"


# Stopping


@pytest.mark.parametrize("way", ["look", "reload"])
def test_stopping_while_a_file_is_read(scene: Scene, file: Path, way: str) -> None:
    with capturedLogs() as logged:
        write(file, {**TEN, "u1@example.com": "two.test"})
        ended: list[Any] = []
        if way == "reload":
            start(scene.reloader.reload()).addBoth(ended.append)
        else:
            scene.turns.advance(LOOK_EVERY)
        scene.reloader.stop()
        for _ in range(10):
            scene.turns.advance(LOOK_EVERY)
    assert scene.server() == "one.test"
    assert logged == []
    assert scene.turns.getDelayedCalls() == []
    if way == "reload":
        assert isinstance(ended[0], Failure)
        assert ended[0].check(Stopped)
    with pytest.raises(Stopped):
        scene.reload()
