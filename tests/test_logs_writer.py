"""A log that cannot be written loses lines, counts them, and never stops the mail."""

from __future__ import annotations

import fcntl
import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.task import Clock

from smtpproxy.logs import Level, Log, Writer, open_log
from smtpproxy.logs.log import is_journal
from smtpproxy.logs.writer import BACKLOG, RETRY
from tests.support.log_events import SAMPLES, SENT, SESSION


def lost(count: int, why: str) -> str:
    return f"lost {count}: {why}\n"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe that holds 4096 octets, whose writing end does not block."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, False)
    os.set_blocking(reader, False)
    yield reader, writer
    for descriptor in (reader, writer):
        try:
            os.close(descriptor)
        except OSError:
            assert descriptor == reader  # a test closed it


def read(reader: int) -> str:
    """All that is in the pipe."""
    found = b""
    try:
        while data := os.read(reader, 65536):
            found += data
    except BlockingIOError:
        pass
    return found.decode()


def test_lines_of_one_turn_are_written_together(clock: Clock, path: Path) -> None:
    writer = Writer(clock.callLater, lost, str(path))
    writer.write("a\n")
    writer.write("b\nc\n")
    assert path.read_text() == ""
    assert len(clock.getDelayedCalls()) == 1
    clock.advance(0)
    assert path.read_text() == "a\nb\nc\n"
    assert clock.getDelayedCalls() == []


def test_a_file_is_appended_to_and_private(clock: Clock, path: Path) -> None:
    for line in ("a\n", "b\n"):
        writer = Writer(clock.callLater, lost, str(path))
        writer.write(line)
        writer.stop()
    assert path.read_text() == "a\nb\n"
    assert path.stat().st_mode & 0o007 == 0


def test_stop_writes_what_waits_and_later_lines_at_once(clock: Clock, path: Path) -> None:
    writer = Writer(clock.callLater, lost, str(path))
    writer.write("a\n")
    writer.stop()
    assert path.read_text() == "a\n"
    assert clock.getDelayedCalls() == []
    writer.write("b\n")
    assert path.read_text() == "a\nb\n"
    assert clock.getDelayedCalls() == []


def test_reopen_after_the_file_was_moved(clock: Clock, path: Path) -> None:
    writer = Writer(clock.callLater, lost, str(path))
    writer.write("a\n")
    old = path.rename(path.with_suffix(".1"))
    writer.reopen()
    writer.write("b\n")
    writer.flush()
    assert (old.read_text(), path.read_text()) == ("a\n", "b\n")


def test_where_reopening_fails_the_old_file_goes_on(clock: Clock, path: Path) -> None:
    log = open_log("text", "info", str(path), clock.callLater)
    old = path.rename(path.with_suffix(".1"))
    path.mkdir()
    log.reopen()
    log.flush()
    assert "error: cannot reopen the log" in old.read_text()


def test_a_full_pipe(clock: Clock, pipe: tuple[int, int]) -> None:
    """What does not fit waits, and no line is torn or doubled."""
    reader, end = pipe
    writer = Writer(clock.callLater, lost, fd=end)
    lines = [f"{number:0100}\n" for number in range(200)]
    for line in lines:
        writer.write(line)
        clock.advance(0)
    found = read(reader)
    assert 0 < len(found) <= 4096
    for _ in range(10):
        clock.advance(RETRY)
        found += read(reader)
    assert found == "".join(lines)
    assert clock.getDelayedCalls() == []


def test_lines_beyond_the_backlog_are_counted(clock: Clock, pipe: tuple[int, int]) -> None:
    reader, end = pipe
    writer = Writer(clock.callLater, lost, fd=end)
    line = "x" * 1023 + "\n"
    given = BACKLOG // 1024 + 100
    for _ in range(given):
        writer.write(line)
        clock.advance(0)
    found = ""
    while clock.getDelayedCalls():
        found += read(reader)
        clock.advance(RETRY)
    found += read(reader)
    *kept, last = found.splitlines(keepends=True)
    assert set(kept) == {line}
    # One went into the pipe at once, as a blocking one may have no room for more; the backlog
    # takes one line more than fits.
    assert len(kept) == 1 + BACKLOG // 1024 + 1
    assert last == lost(given - len(kept), "nobody reads it")
    writer.write("again\n")
    writer.flush()
    assert read(reader) == "again\n"


def test_a_burst_in_one_turn_is_not_lost(clock: Clock, path: Path) -> None:
    writer = Writer(clock.callLater, lost, str(path))
    for _ in range(3 * BACKLOG // 1024):
        writer.write("x" * 1023 + "\n")
    writer.flush()
    assert path.stat().st_size == 3 * BACKLOG


def test_a_pipe_without_reader(clock: Clock, pipe: tuple[int, int]) -> None:
    reader, end = pipe
    os.close(reader)
    writer = Writer(clock.callLater, lost, fd=end)
    writer.write("a\n")
    clock.advance(0)
    writer.write("b\n")
    writer.stop()
    writer.write("c\n")


def test_a_closed_descriptor(clock: Clock, pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    writer = Writer(clock.callLater, lost, fd=pipe[0])
    writer.write("a\n")
    clock.advance(0)
    assert len(clock.getDelayedCalls()) == 1  # it is tried again


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_full_disk_and_then_a_new_file(clock: Clock, path: Path) -> None:
    path.symlink_to("/dev/full")
    writer = Writer(clock.callLater, lost, str(path))
    writer.write("a\n")
    clock.advance(0)
    writer.write("b\n")
    path.unlink()
    writer.reopen()
    assert path.read_text() == "a\nb\n"


def test_a_pipe_in_place_of_the_file(
    clock: Clock, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(clock.callLater, lost, str(path))
    path.unlink()
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer.reopen()
    real, sizes = os.write, []

    def write(fd: int, data: bytes) -> int:
        sizes.append(len(data))
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    writer.write("x" * 9999 + "\n")
    writer.flush()
    assert read(reader) == "x" * 9999 + "\n"
    os.close(reader)
    assert max(sizes) <= select.PIPE_BUF  # more could wait for a reader, and all mail with it


def test_a_torn_line_does_not_go_into_the_next_file(
    clock: Clock, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(clock.callLater, lost, str(path))
    real, full, left = os.write, path.stat().st_ino, [6]

    def write(fd: int, data: bytes) -> int:
        if os.fstat(fd).st_ino != full:
            return real(fd, data)
        written = real(fd, data[: left[0]]) if left[0] else _full()
        left[0] -= written
        return written

    monkeypatch.setattr(os, "write", write)
    writer.write("one\ntwo\nthree\n")
    clock.advance(0)
    old = path.rename(path.with_suffix(".1"))
    writer.reopen()
    assert old.read_text() == "one\ntw"
    assert path.read_text() == "three\n" + lost(1, "No space left on device")


def _full() -> int:
    raise OSError(28, "No space left on device")


def test_a_log_from_its_settings(clock: Clock, path: Path) -> None:
    log = open_log("json", "warning", str(path), clock.callLater, now=lambda: 0)
    for event in SAMPLES:
        log(event)
    clock.advance(0)
    lines = path.read_text().splitlines()
    # A look-up and three upstreams failed, a header is missing; one is in doubt, one came twice.
    assert len(lines) == 7
    assert all('"level":"warning"' in line and f'"session":"{SESSION}"' in line for line in lines)
    with pytest.raises(OSError):
        open_log("text", "info", str(path / "none"), clock.callLater)


def test_what_was_lost_is_told_in_the_logs_own_shape(
    clock: Clock, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log("text", "info", str(path), clock.callLater)
    monkeypatch.setattr("smtpproxy.logs.writer.BACKLOG", 0)
    monkeypatch.setattr(os, "write", lambda fd, data: _full())
    for _ in range(3):
        log(SENT)
    clock.advance(0)
    monkeypatch.undo()
    clock.advance(RETRY)
    *lines, last = path.read_text().splitlines()
    assert len(lines) == 5
    assert last.endswith("warning: 10 log lines were lost: No space left on device")


def test_the_journal_is_told_by_its_device_and_inode(pipe: tuple[int, int]) -> None:
    status = os.fstat(pipe[1])
    stream = f"{status.st_dev}:{status.st_ino}"
    assert is_journal(pipe[1], {"JOURNAL_STREAM": stream})
    assert not is_journal(pipe[1], {"JOURNAL_STREAM": "8:1"})
    assert not is_journal(pipe[1], {})
    assert not is_journal(-1, {"JOURNAL_STREAM": stream})


def test_an_event_below_the_level_costs_nothing(clock: Clock, path: Path) -> None:
    class NoShape:
        def event(self, level: Level, event: object) -> str:
            raise AssertionError("not to be asked")

        def note(self, level: Level, text: str, source: str = "") -> str:
            raise AssertionError("not to be asked")

    log = Log(NoShape(), Writer(clock.callLater, lost, str(path)), Level.ERROR)
    for event in SAMPLES:
        log(event)
    log.note(Level.WARNING, "x")
    assert clock.getDelayedCalls() == []


def test_a_log_that_becomes_another_takes_along_what_was_not_written(
    clock: Clock, tmp_path: Path
) -> None:
    """The disk is full, say, which is why the log is moved."""
    pipe = tmp_path / "full"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    log = open_log("text", "info", str(pipe), clock.callLater)
    for _ in range(100):
        log.note(Level.INFO, "x" * 4000)
    clock.advance(0)
    other = open_log("json", "error", str(tmp_path / "other"), clock.callLater)
    log.become(other)
    log.note(Level.INFO, "is not wanted any more")
    log.note(Level.ERROR, "the last")
    clock.advance(0)
    *kept, last = (tmp_path / "other").read_text().splitlines()
    assert '"the last"' in last
    assert len(kept) > 50
    assert all(line.endswith("x" * 4000) for line in kept[1:-1])
    assert clock.getDelayedCalls() == []
    os.close(reading)
