"""Workers: what each has of the configuration, what it is lent, and who looks after them."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from smtpproxy.config import Address, Config, load
from smtpproxy.config.types import MOST_WORKERS
from smtpproxy.deadlines import Deadlines
from smtpproxy.faults import Faults
from smtpproxy.listener import session_names
from smtpproxy.logs import Level
from smtpproxy.request import ControlError, NobodyAnswers
from smtpproxy.tasks import start
from smtpproxy.workers import number_of, share_of
from smtpproxy.workers.asking import Asker
from smtpproxy.workers.channel import MOST, pair, receive
from smtpproxy.workers.child import READY, SERVES
from smtpproxy.workers.crew import LIFE, LONGEST_REST, LOOK_EVERY, MOST_BEGINNING, MOST_SILENT, Crew
from smtpproxy.workers.merging import MERGED
from smtpproxy.workers.terms import Lent, Terms

HERE = Address("127.0.0.1", 25)
THERE = Address("127.0.0.1", 587)


def config_of(folder: Path, text: str = "") -> Config:
    file = folder / "smtpproxy.toml"
    file.write_text(
        f'domain = "mx.example.net"\nlisteners = [{{listen = "127.0.0.1:25"}}]\n'
        f'mappings = [{{type = "static", server = "192.0.2.1"}}]\n{text}'
    )
    return load(file, {})


# What each has of the configuration


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return config_of(tmp_path_factory.mktemp("share"))


@given(
    st.integers(1, 100_000), st.integers(0, 100_000), st.integers(0, 100_000), st.integers(2, 64)
)
def test_what_is_limited_in_all_is_divided(
    config: Config, sessions: int, waiting: int, each: int, workers: int
) -> None:
    limits = config.limits.model_copy(update={"max_connections": sessions, "max_waiting": waiting})
    upstreams = config.upstreams.model_copy(update={"max_connections": each})
    whole = config.model_copy(update={"limits": limits, "upstreams": upstreams})
    share = share_of(whole, workers, "/c")
    for mine, all_of_them in (
        (share.limits.max_connections, sessions),
        (share.limits.max_waiting, waiting),
        (share.upstreams.max_connections, each),
    ):
        assert all_of_them <= mine * workers < all_of_them + workers
        assert bool(mine) == bool(all_of_them), "0 is no limit"


def test_a_share_has_a_control_socket_of_its_own_and_no_http_and_all_else(tmp_path: Path) -> None:
    text = 'control = "control"\n[http]\nlisten = "127.0.0.1:9025"\n'
    whole = config_of(tmp_path, text + "[limits]\nmax_connections_per_address = 7\n")
    share = share_of(whole, 3, "/somewhere")
    assert share.control == "/somewhere"
    assert share.http.listen is None
    assert whole.http.listen is not None
    assert share.limits.max_connections_per_address == 7
    changed = {"control", "http", "limits", "upstreams"}
    for name in type(whole).model_fields.keys() - changed:
        assert getattr(share, name) == getattr(whole, name)


def test_auto_is_one_for_each_processor_that_may_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto = config_of(tmp_path, 'workers = "auto"')
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2, 3, 5})
    assert number_of(auto) == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(1000)))
    assert number_of(auto) == MOST_WORKERS
    assert number_of(config_of(tmp_path, "workers = 5")) == 5
    assert number_of(config_of(tmp_path)) == 1


@pytest.mark.parametrize("text", ["0", "-1", str(MOST_WORKERS + 1), "true", '"two"', "1.5"])
def test_a_number_of_workers_that_is_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(Faults, match=r'workers: must be "auto" or a number from 1 to'):
        config_of(tmp_path, f"workers = {text}")


@given(st.lists(st.tuples(st.integers(0, 63), st.floats(0, 0.01)), max_size=200))
def test_session_ids_of_several_processes_never_meet(begun: list[tuple[int, float]]) -> None:
    """Whichever of them begins one, in any order of their clocks."""
    now = 1.7e9
    names = [session_names(lambda: now, each) for each in range(64)]
    given_out = []
    for process, later in begun:
        now += later - 0.004  # also backwards
        given_out.append(names[process]())
    assert len(set(given_out)) == len(given_out)


# What it is lent


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as it:
        yield it


def told(terms: Terms, lent: Lent | None = None) -> Lent:
    """A worker that was told of these, through a real channel."""
    lent = lent or Lent()
    ours, theirs = pair()
    with ours, theirs:
        terms.tell(lambda data, descriptors: socket.send_fds(ours, [data], list(descriptors)))
        ours.close()
        while (got := receive(theirs))[0]:
            for word, value in json.loads(got[0]).items():
                lent.words[word](value, got[1])
    return lent


def test_a_worker_listens_to_the_very_socket(tmp_path: Path, listening: socket.socket) -> None:
    lent = told(Terms(config_of(tmp_path), {(HERE, 0): [listening]}))
    assert lent.complete
    first, second = lent.bind(HERE) + lent.bind(HERE)
    with first, second, socket.create_connection(listening.getsockname()):
        assert first.getsockname() == second.getsockname() == listening.getsockname()
        assert first.fileno() != second.fileno()
        assert not first.get_inheritable()
        listening.settimeout(20)
        listening.accept()[0].close()
        with pytest.raises(BlockingIOError):
            first.accept()
    lent.close()


def test_a_worker_has_no_socket_but_those_that_are_kept(
    tmp_path: Path, listening: socket.socket
) -> None:
    config = config_of(tmp_path)
    before = open_files()
    lent = told(Terms(config, {(HERE, 0): [listening], (THERE, 0): [listening, listening]}))
    assert [len(lent.bind(each)) for each in (HERE, THERE)] == [1, 2]
    told(Terms(config, {(THERE, 0): [listening]}), lent)
    with pytest.raises(Faults, match=r"127\.0\.0\.1:25: the parent has not lent its socket"):
        lent.bind(HERE)
    (copy,) = lent.bind(THERE)
    copy.close()
    lent.close()
    with pytest.raises(Faults):
        lent.bind(THERE)
    assert open_files() == before, "a socket that is open keeps others from its address"


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_configuration_arrives_as_it_is_however_large(tmp_path: Path) -> None:
    rows = "".join(
        f'[[mappings]]\ntype = "static"\nserver = "{each}.example.com"\n' for each in range(2000)
    )
    file = tmp_path / "large.toml"
    file.write_text(f'domain = "mx.example.net"\nlisteners = [{{listen = ":25"}}]\n{rows}')
    config = load(file, {"SMTPPROXY_HTTP__TOKEN": "secret-of-16-chars"})
    before = open_files()
    got = told(Terms(config, {})).config
    assert open_files() == before
    assert len(pickle.dumps(config)) > MOST
    assert got == config
    assert got.http.token == "secret-of-16-chars"
    assert got.place("mappings", 3, "server") == config.place("mappings", 3, "server")


# Who looks after them


class Processes(Clock):
    """A reactor of which all is in memory but the channels; `ends` are those of the workers."""

    def __init__(self) -> None:
        super().__init__()
        self.spawned: list[Spawned] = []
        self.fails = False
        self._readers: list[Any] = []

    def addReader(self, reader: Any) -> None:
        self._readers.append(reader)

    def removeReader(self, reader: Any) -> None:
        self._readers.remove(reader)

    def spawnProcess(
        self,
        protocol: ProcessProtocol,
        executable: str,
        arguments: list[str],
        env: Mapping[str, str],
        childFDs: Mapping[int, int],
    ) -> Spawned:
        if self.fails:
            raise OSError(11, "Resource temporarily unavailable")
        spawned = Spawned(protocol, arguments, env, os.dup(childFDs[3]), 100 + len(self.spawned))
        self.spawned.append(spawned)
        protocol.makeConnection(spawned)
        return spawned

    def turn(self) -> None:
        """Read all that workers have said."""
        for reader in tuple(self._readers):
            reader.doRead()


class Spawned:
    """A worker of `Processes`: what it was told and which signals it got."""

    def __init__(
        self,
        protocol: ProcessProtocol,
        arguments: list[str],
        env: Mapping[str, str],
        end: int,
        pid: int,
    ) -> None:
        self.arguments, self.env, self.pid = arguments, env, pid
        self.signals: list[int] = []
        self.end = socket.socket(fileno=end)
        self.end.setblocking(False)
        self._protocol = protocol
        self._over = False

    def signalProcess(self, number: int) -> None:
        if self._over:
            raise ProcessExitedAlready
        self.signals.append(number)

    def says(self, data: bytes) -> None:
        self.end.send(data)

    def heard(self) -> list[str]:
        """The words that it was told since."""
        words: list[str] = []
        while True:
            try:
                data, descriptors = receive(self.end)
            except BlockingIOError:
                return words
            for each in descriptors:
                os.close(each)
            if not data:
                return [*words, "end"]
            words += json.loads(data)

    def ends(self, status: int = 0, number: int = 0) -> None:
        self._over = True
        self.end.close()
        error = ProcessTerminated(status, number or None) if status or number else ProcessDone(0)
        self._protocol.processEnded(Failure(error))


class Scene:
    """A crew of `count`, with a clock."""

    def __init__(self, folder: Path, count: int = 2) -> None:
        self.reactor = Processes()
        self.deadlines = Deadlines(self.reactor)
        self.notes: list[tuple[Level, str]] = []
        self.complete: list[bool] = []
        self.failures: list[str] = []
        self.terms = Terms(config_of(folder), {})
        self.asked: list[tuple[int, str]] = []
        self.crew = Crew(
            count,
            folder,
            Asker(self.reactor, self.deadlines),
            self.reactor,
            self.deadlines,
            self,  # type: ignore[arg-type]
            lambda: self.complete.append(True),
            self.failures.append,
        )
        self.crew.start(self.terms)

    def note(self, level: Level, text: str) -> None:
        self.notes.append((level, text))

    @property
    def last(self) -> str:
        return self.notes[-1][1]

    @property
    def workers(self) -> list[Spawned]:
        return self.reactor.spawned

    def serve(self, *workers: int) -> None:
        """These say that they do, of all that were ever started."""
        for each in workers or range(len(self.workers)):
            self.workers[each].says(SERVES)
        self.reactor.turn()

    def answer(self) -> None:
        """All say that they are alive."""
        for each in self.workers:
            if each.end.fileno() >= 0:
                each.says(SERVES)
        self.reactor.turn()


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_it_is_complete_once_all_serve(scene: Scene) -> None:
    assert [each.heard() for each in scene.workers] == [["standings", "configuration", "keep"]] * 2
    scene.workers[0].says(READY)
    scene.reactor.turn()
    assert [each.heard() for each in scene.workers] == [["serve"], []]
    with pytest.raises(ControlError, match="no worker serves"):
        scene.crew.serving  # noqa: B018
    scene.serve(0)
    assert (scene.complete, len(scene.crew.serving)) == ([], 1)
    scene.serve(1)
    assert (scene.complete, len(scene.crew.serving)) == ([True], 2)
    assert repr(scene.crew) == "<Crew: 2 of 2 workers serve>"
    assert scene.notes == [
        (Level.INFO, "worker 1 (100) serves"),
        (Level.INFO, "worker 2 (101) serves"),
    ]


def test_all_that_was_said_is_heard_at_once(scene: Scene) -> None:
    """A worker that is then asked to reload must have it all."""
    scene.workers[0].says(READY)
    scene.serve(0)
    assert scene.workers[0].heard()[-1] == "serve"
    assert len(scene.crew.serving) == 1


def test_each_knows_its_number_and_nothing_that_is_for_the_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    scene = Scene(tmp_path, 3)
    for number, each in enumerate(scene.workers, start=1):
        at = each.arguments.index("--number")
        assert each.arguments[at + 1] == str(number)
        assert each.arguments[each.arguments.index("--of") + 1] == "3"
        assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & each.env.keys()
        assert "PATH" in each.env


def test_one_that_cannot_begin_ends_the_program_and_says_why(scene: Scene) -> None:
    scene.serve(0)
    scene.workers[1].says(b"rows.csv:3: no")
    scene.workers[1].ends(status=1)
    assert scene.failures == [
        "worker 2 (101) ended with status 1 before it served:\nrows.csv:3: no"
    ]
    assert scene.complete == []


def test_a_later_one_that_cannot_begin_says_why(scene: Scene) -> None:
    scene.serve()
    scene.workers[1].says(b"rows.csv:3: no\nrows.csv:4: no")
    scene.workers[1].ends(status=1)
    assert [text for _, text in scene.notes[-3:]] == [
        "worker 2 (101) ended with status 1; it is started again now",
        "rows.csv:3: no",
        "rows.csv:4: no",
    ]
    assert scene.failures == []


def test_one_that_lived_is_started_again_at_once(scene: Scene) -> None:
    scene.serve()
    scene.reactor.advance(LIFE)
    scene.workers[0].ends(number=signal.SIGKILL)
    assert scene.last == "worker 1 (100) ended by SIGKILL; it is started again now"
    assert scene.notes[-1][0] is Level.ERROR
    scene.reactor.advance(0)
    assert len(scene.workers) == 3
    assert scene.workers[2].arguments[-5:-3] == scene.workers[0].arguments[-5:-3]
    assert [each.number for each in scene.crew.serving] == [2]
    scene.serve(2)
    assert [each.number for each in scene.crew.serving] == [1, 2]
    assert scene.complete == [True], "once"


def test_one_that_dies_again_and_again_rests_longer_each_time(scene: Scene) -> None:
    scene.serve()
    rests = []
    for _ in range(9):
        scene.workers[-1].ends(status=1)
        began, count = scene.reactor.seconds(), len(scene.workers)
        while len(scene.workers) == count:
            scene.reactor.advance(0.5)
            scene.answer()
        rests.append(scene.reactor.seconds() - began)
    assert rests == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert LONGEST_REST == 30
    said = [text for _, text in scene.notes if "started again" in text]
    assert said[-1] == "worker 2 (109) ended with status 1; it is started again in 30 s"
    for _ in range(40):
        scene.answer()
        scene.reactor.advance(LIFE / 10)
    scene.workers[-1].ends(status=1)
    assert scene.last.endswith("it is started again now")


def test_where_the_system_has_no_process_for_it_it_tries_again(scene: Scene) -> None:
    scene.serve()
    scene.reactor.fails = True
    scene.workers[0].ends(status=1)
    scene.reactor.advance(0)
    scene.reactor.advance(1)
    assert scene.last == (
        "worker 1 cannot be started: Resource temporarily unavailable; it is started again in 2 s"
    )
    scene.reactor.fails = False
    scene.reactor.advance(2)
    assert len(scene.workers) == 3


def test_one_that_does_not_answer_is_killed(scene: Scene) -> None:
    scene.serve()
    for turn in range(MOST_SILENT):
        scene.reactor.advance(LOOK_EVERY)
        scene.workers[1].says(SERVES)
        scene.reactor.turn()
        assert scene.crew.serving[0].hangs == (turn > 0)
        assert not scene.crew.serving[1].hangs
    assert scene.workers[0].signals == []
    scene.reactor.advance(LOOK_EVERY)
    assert (scene.workers[0].signals, scene.workers[1].signals) == ([signal.SIGKILL], [])
    assert scene.last == "worker 1 (100) does not answer: killed"


def test_one_that_wakes_up_in_time_is_not_killed(scene: Scene) -> None:
    scene.serve()
    for _ in range(5):
        scene.reactor.pump([LOOK_EVERY] * (MOST_SILENT - 1))
        scene.answer()
    assert [each.signals for each in scene.workers] == [[], []]


def test_one_that_reads_much_before_it_serves_has_time(scene: Scene) -> None:
    scene.serve(0)
    for _ in range(MOST_BEGINNING):
        scene.reactor.advance(LOOK_EVERY)
        scene.workers[0].says(SERVES)
        scene.reactor.turn()
    assert scene.workers[1].signals == []
    scene.reactor.advance(LOOK_EVERY)
    assert scene.workers[1].signals == [signal.SIGKILL]


def test_one_that_does_not_read_is_killed_before_it_misses_anything(scene: Scene) -> None:
    scene.serve()
    for number in range(2000):
        scene.workers[1].heard()
        scene.crew.stand("x" * 1000, str(number))
    assert set(scene.workers[0].signals) == {signal.SIGKILL}
    assert scene.workers[1].signals == []


def test_what_is_said_of_upstreams_is_said_to_all_and_to_later_ones(scene: Scene) -> None:
    scene.serve()
    for each in scene.workers:
        each.heard()
    scene.crew.stand("192.0.2.1:25", "drain")
    assert [each.heard() for each in scene.workers] == [["standings"], ["standings"]]
    scene.workers[0].ends(number=signal.SIGKILL)
    scene.reactor.advance(0)
    data, _ = receive(scene.workers[2].end)
    assert json.loads(data) == {"standings": {"192.0.2.1:25": "drain"}}


def test_all_are_stopped_and_waited_for(scene: Scene) -> None:
    scene.serve()
    scene.reactor.advance(LIFE)
    scene.workers[1].ends(status=1)  # it waits to be started again
    stopping = start(scene.crew.stop(30))
    assert scene.workers[0].signals == [signal.SIGTERM]
    scene.reactor.advance(29)
    assert not stopping.called
    scene.workers[0].ends()
    assert stopping.called
    scene.reactor.advance(100)
    assert len(scene.workers) == 2, "none is started any more"


def test_one_that_does_not_end_in_time_is_killed(scene: Scene) -> None:
    scene.serve()
    stopping = start(scene.crew.stop(30))
    scene.workers[1].ends()
    scene.reactor.pump([1] * 31)
    assert scene.workers[0].signals == [signal.SIGTERM, signal.SIGKILL]
    assert scene.last == "worker 1 (100) does not end: killed"
    assert not stopping.called
    scene.workers[0].ends(number=signal.SIGKILL)
    assert stopping.called


class Answers(Asker):
    """Workers say what `says` has for their numbers; a ControlError is raised."""

    def __init__(self, says: Callable[[int], dict[str, Any] | ControlError]) -> None:
        self.says = says
        self.asked: list[int] = []

    async def one(self, child: Any, request: Any, seconds: float = 0) -> dict[str, Any]:
        self.asked.append(child.number)
        said = self.says(child.number)
        if isinstance(said, ControlError):
            raise said
        return said


TAKEN = {"taken": True, "lines": ["in force"]}
NOT_TAKEN = {"taken": False, "lines": ["rows.csv:3: no"]}


def renewed(scene: Scene, *says: dict[str, Any] | ControlError) -> tuple[Terms, Any, list[int]]:
    """The terms that were offered, what became of it, and who was asked."""
    scene.serve()
    terms = Terms(scene.terms.config, {})
    asker = scene.crew._asker = Answers(lambda number: says[number - 1])
    renewing = start(scene.crew.renew(terms, force=False))
    return terms, renewing.result, asker.asked


def test_what_the_first_takes_the_others_take(tmp_path: Path) -> None:
    scene = Scene(tmp_path, 3)
    terms, outcome, asked = renewed(scene, TAKEN, TAKEN, TAKEN)
    assert (outcome.ok, outcome.lines) == (True, ("in force",))
    assert asked == [1, 2, 3]
    assert [each.terms for each in scene.crew.serving] == [terms] * 3
    assert [each.signals for each in scene.workers] == [[], [], []]


def test_what_the_first_does_not_take_nobody_is_asked_to(tmp_path: Path) -> None:
    scene = Scene(tmp_path, 3)
    _, outcome, asked = renewed(scene, NOT_TAKEN, TAKEN, TAKEN)
    assert (outcome.ok, outcome.lines) == (False, ("rows.csv:3: no",))
    assert asked == [1]
    assert [each.terms for each in scene.crew.serving] == [scene.terms] * 3
    # What was in force before, the new, and again what is in force.
    assert scene.workers[1].heard().count("configuration") == 3


def test_one_that_does_not_take_what_the_first_took_is_replaced(tmp_path: Path) -> None:
    scene = Scene(tmp_path, 3)
    terms, outcome, _ = renewed(scene, TAKEN, NOT_TAKEN, TAKEN)
    assert outcome.ok
    assert [each.number for each in scene.crew.serving] == [1, 3]
    assert scene.last == "worker 2 (101) does not take what worker 1 (100) took: replaced"
    assert scene.workers[1].signals == [signal.SIGTERM]
    scene.workers[1].ends()
    assert scene.notes[-1] == (
        Level.INFO,
        "worker 2 (101) ended with status 0; it is started again now",
    )
    scene.reactor.advance(0)
    scene.serve(3)
    assert [each.terms for each in scene.crew.serving] == [terms] * 3


def test_a_reload_that_the_first_never_answers_leaves_all_as_it_was(scene: Scene) -> None:
    _, outcome, _ = renewed(scene, NobodyAnswers("worker 1 (100) does not answer"), TAKEN)
    assert (outcome.ok, outcome.lines) == (False, ("worker 1 (100) does not answer",))
    assert scene.workers[0].signals == [signal.SIGKILL], "nobody knows what it has"
    assert scene.crew.serving[1].terms is scene.terms


@pytest.mark.parametrize("says", [READY, SERVES])
def test_one_that_has_read_what_is_no_longer_in_force_is_replaced(
    scene: Scene, says: bytes
) -> None:
    """It was started before a reload, and could not be asked as yet."""
    scene.serve()
    scene.workers[1].ends(number=signal.SIGKILL)
    scene.reactor.advance(0)
    terms = Terms(scene.terms.config, {})
    scene.crew._asker = Answers(lambda _: TAKEN)
    assert start(scene.crew.renew(terms, force=False)).result.ok
    scene.workers[2].says(says)
    scene.reactor.turn()
    assert "serve" not in scene.workers[2].heard()
    assert [each.number for each in scene.crew.serving] == [1]
    assert scene.workers[2].signals == [signal.SIGTERM]
    scene.workers[2].ends(number=signal.SIGTERM)
    scene.reactor.advance(0)
    scene.serve(3)
    assert [each.terms for each in scene.crew.serving] == [terms] * 2


# What they say, made one answer


def shadow(name: str, asked: int, differed: int = 0, not_asked: int = 0) -> dict[str, Any]:
    return {"shadow": name, "asked": asked, "differed": differed, "not_asked": not_asked}


def test_what_shadows_were_asked_is_added_up() -> None:
    one = {"shadows": [shadow("b", 3, 1), shadow("c", 1)]}
    two = {"shadows": [shadow("a", 5, 0, 2), shadow("b", 4, 2, 1)]}
    said = MERGED["shadows"]([one, two])
    assert said == {"shadows": [shadow("a", 5, 0, 2), shadow("b", 7, 3, 1), shadow("c", 1)]}
    assert one["shadows"][0] == shadow("b", 3, 1), "nothing is changed"


def upstream(name: str, **more: Any) -> dict[str, Any]:
    nothing: dict[str, Any] = {"asking": None, "heard": [], "failed": [], "too_small": None}
    more = {"connections": 0, "waiting": 0, "kept": 0, "troubles": [], **more}
    return {"servers": [name], "tls": "may", "identity": "auto", "standings": {}, **nothing, **more}


def heard(age: float, *offers: str, by_mail: bool = False) -> dict[str, Any]:
    where = {"server": "a", "address": "192.0.2.1"}
    return {**where, "by_mail": by_mail, "age": age, "offers": list(offers)}


def merged(*answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    every = [{"upstreams": each, "listeners": []} for each in answers]
    said = MERGED["upstreams"](every)
    upstreams: list[dict[str, Any]] = said["upstreams"]
    return upstreams


def test_connections_of_an_upstream_are_added_up_and_upstreams_of_one_worker_stay() -> None:
    one = upstream("a", connections=2, waiting=1, kept=2)
    said = merged([one], [upstream("b"), upstream("a", connections=3, kept=1)])
    assert [each["servers"] for each in said] == [["a"], ["b"]]
    assert [said[0][each] for each in ("connections", "waiting", "kept")] == [5, 1, 3]
    assert one["connections"] == 2, "nothing is changed"


def test_the_same_server_with_other_tls_is_another_upstream() -> None:
    said = merged([upstream("a")], [{**upstream("a"), "tls": "verify"}])
    assert [each["tls"] for each in said] == ["may", "verify"]


def test_what_was_heard_last_counts() -> None:
    said = merged(
        [upstream("a", heard=[heard(60, "OLD"), heard(9, "MAIL", by_mail=True)])],
        [upstream("a", heard=[heard(5, "NEW")])],
        [upstream("a", asking={"address": "192.0.2.1"})],
    )
    assert [each["offers"] for each in said[0]["heard"]] == [["NEW"], ["MAIL"]]
    assert said[0]["asking"] == {"address": "192.0.2.1"}


def test_trouble_that_one_worker_has_is_told() -> None:
    trouble = {"server": "a", "address": "192.0.2.1", "down": True, "seconds": 30.0}
    assert merged([upstream("a")], [upstream("a", troubles=[trouble])])[0]["troubles"] == [trouble]


def test_of_a_listener_it_is_told_what_is_announced_where_all_are_heard() -> None:
    less, more = (
        {"listener": ":25", "announces": each} for each in (["PIPELINING"], ["PIPELINING", "DSN"])
    )
    for answers in ((less, more), (more, less), (less, more, less)):
        said = MERGED["upstreams"]([{"upstreams": [], "listeners": [each]} for each in answers])
        assert said["listeners"] == [more]


def test_what_was_said_of_nobody_is_told_where_no_worker_knows_it() -> None:
    one, two = {"a:25": "drain", "b:25": "maintenance"}, {"b:25": "maintenance"}
    said = MERGED["upstreams"](
        [{"upstreams": [], "listeners": [], "standings": each} for each in (one, two)]
    )
    assert said["standings"] == two
