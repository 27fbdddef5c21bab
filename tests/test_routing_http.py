"""The mapping that asks a web service: both dialects, and services that misbehave."""

from __future__ import annotations

import json
from pathlib import Path as FilePath
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults, inlineCallbacks
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from smtpproxy.deadlines import Deadlines
from smtpproxy.mail import UNAVAILABLE, Client, Peer
from smtpproxy.routing import (
    Found,
    Identity,
    NoRoute,
    Question,
    Refused,
    Route,
    Row,
    Server,
    Tls,
    TryAgain,
    Upstream,
)
from smtpproxy.routing.http import HttpMapping
from smtpproxy.routing.http_client import MAX_ANSWER, MAX_BODY, Response, _Body
from smtpproxy.routing.http_json import JsonDialect
from smtpproxy.routing.http_nginx import MAX_WAIT, NginxDialect
from smtpproxy.routing.http_url import Url, check_headers, parse_url
from smtpproxy.smtp.paths import NULL_PATH, Path, parse_path
from smtpproxy.smtp.replies import Reply
from smtpproxy.tasks import start
from smtpproxy.tls import client_context
from tests.support.certificates import Authority
from tests.support.http_server import HttpServer, RawServer
from tests.support.ports import free_port

ALICE = Path("Alice+News", "Example.com")
CLIENT = Client(Peer("192.0.2.1", 40000, "192.0.2.25", 25), "mail.example.net", "helo.test")
QUESTION = Question(ALICE, "+", "mx.example.net", Path("Bob", "example.net"), CLIENT)
HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"
MX = Upstream((Server("mx.test", 26),))


class WithService(TestCase):
    """A mapping asks a service, and a clock stands still unless the test moves it."""

    timeout = 30

    def setUp(self):
        self.clock = Clock()
        self.deadlines = Deadlines(self.clock)
        self.addCleanup(self.deadlines.stop)
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = FilePath(folder.name)

    def served(self, server):
        self.addCleanup(server.stop)
        return server

    def mapping(self, url, dialect=None, **more):
        mapping = HttpMapping(
            "http test", parse_url(url), dialect or JsonDialect(), reactor, self.deadlines, **more
        )
        self.addCleanup(mapping.close)
        return mapping

    def lookup(self, mapping, question=QUESTION):
        return start(mapping.lookup(question))

    def body_arrives(self):
        """Fires once the first octets of a body are here."""
        arrived: Deferred[None] = Deferred()
        received = _Body.dataReceived

        def data_received(body, data):
            received(body, data)
            if not arrived.called:
                arrived.callback(None)

        self.patch(_Body, "dataReceived", data_received)
        return arrived


class JsonTest(WithService):
    def setUp(self):
        super().setUp()
        self.server = self.served(HttpServer())

    @inlineCallbacks
    def test_a_row(self):
        self.server.body = b'{"server": "mx.test:26", "tls": "verify", "identity": "none"}'
        answer = yield self.lookup(self.mapping(self.server.url()))
        row = Row(Upstream((Server("mx.test", 26),), Tls.VERIFY, Identity.NONE))
        assert answer == Found(Route(row, "http test", "alice+news@example.com"))
        assert self.server.requests[0].path == b"/route"
        assert self.server.parameters() == {
            "recipient": "alice+news@example.com",
            "sender": "bob@example.net",
            "client": "192.0.2.1",
            "helo": "helo.test",
        }
        assert self.server.header("User-Agent") == "smtpproxy"

    @inlineCallbacks
    def test_no_route(self):
        mapping = self.mapping(self.server.url())
        for status, body in (
            (200, b"{}"),
            (200, b'{"server": null}'),
            (200, b'{"server": "", "note": "moved away"}'),
            (204, b""),
            (404, b"<html>not found</html>"),
        ):
            self.server.status, self.server.body = status, body
            assert (yield self.lookup(mapping)) == NoRoute(), (status, body)
        assert len(set(self.server.connections)) == 1

    @inlineCallbacks
    def test_what_is_no_answer_is_tried_again(self):
        mapping = self.mapping(self.server.url())
        for status, body, words in (
            (500, b'{"server": "mx.test"}', "its answer has status 500"),
            (201, b'{"server": "mx.test"}', "its answer has status 201"),
            (200, b"", "its answer is not JSON"),
            (200, b'{"server": "mx.test"', "its answer is not JSON"),
            (200, b'{"server": "\xff"}', "its answer is not JSON"),
            (200, b"[" * 60000, "its answer is not JSON"),
            (200, b'[{"server": "mx.test"}]', "its answer is not an object in JSON"),
            (200, b"null", "its answer is not an object in JSON"),
            (200, b'{"servr": "mx.test"}', "unknown field 'servr'; known: server, tls_verify"),
            (200, b'{"server": "a", "server": "b"}', "a field is there twice"),
            (200, b'{"server": true}', "a server of the wrong type"),
            (200, b'{"server": ["a", "b"]}', "a server of the wrong type"),
            (200, b'{"server": "a", "percent": true}', "a percent of the wrong type"),
            (200, b'{"server": "a", "percent": 1.5}', "a percent of the wrong type"),
            (200, b'{"server": "a b"}', "server: 'a b' is not a host name"),
            (200, b'{"server": "a", "percent": 101}', "percent: '101' is not a percentage"),
            (200, b'{"server": "a\\r\\nQUIT"}', r"'a\r\nQUIT' is not a host name"),
        ):
            self.server.status, self.server.body = status, body
            answer = yield self.lookup(mapping)
            assert isinstance(answer, TryAgain), body
            assert answer.reason.startswith(f"http://127.0.0.1:{self.server.port}: ")
            assert words in answer.reason
            assert answer.reason.isprintable()
        self.server.body = json.dumps({"x" * 9999: 1}).encode()
        assert len((yield self.lookup(mapping)).reason) < 400

    @inlineCallbacks
    def test_percent_leaves_the_others_to_the_mappings_that_follow(self):
        mapping = self.mapping(self.server.url())
        for percent in (QUESTION.percentile, QUESTION.percentile + 1):
            self.server.body = json.dumps({"server": "mx.test:26", "percent": percent}).encode()
            answer = yield self.lookup(mapping)
            route = Route(Row(MX, percent), "http test", "alice+news@example.com")
            expected = NoRoute((route,)) if percent == QUESTION.percentile else Found(route)
            assert answer == expected

    @inlineCallbacks
    def test_redirects_are_not_followed(self):
        other = self.served(HttpServer())
        self.server.status, self.server.headers = 302, {"Location": other.url()}
        answer = yield self.lookup(self.mapping(self.server.url()))
        assert "its answer has status 302; redirects are not followed" in answer.reason
        assert other.requests == []

    @inlineCallbacks
    def test_the_url_keeps_its_own_query_and_headers_are_added(self):
        url = self.server.url("/a b/é?token=x%26y")
        mapping = self.mapping(url, headers={"X-Auth-Key": "secret", "User-Agent": "mine"})
        yield self.lookup(mapping)
        assert self.server.requests[0].path == b"/a%20b/%C3%A9"
        assert self.server.parameters()["token"] == "x&y"
        assert self.server.header("X-Auth-Key") == "secret"
        assert self.server.header("User-Agent") == "mine"

    @inlineCallbacks
    def test_secrets_in_the_url_are_not_told(self):
        self.server.status = 500
        answer = yield self.lookup(self.mapping(self.server.url("/hush?token=hush")))
        assert "hush" not in answer.reason

    @inlineCallbacks
    def test_any_address_arrives_as_it_is(self):
        mapping = self.mapping(self.server.url())
        for local in (
            "a&recipient=b",
            "100%",
            "a#b?c=d",
            "a+b",
            r'"x\"; DROP TABLE"',
            "josé",
            "%0a",
        ):
            question = Question(Path(local, "example.com"), sender=Path(local, "test"))
            yield self.lookup(mapping, question)
            key = local[1:-1].replace("\\", "") if local.startswith('"') else local
            assert self.server.parameters() == {
                "recipient": f"{key}@example.com".lower(),
                "sender": f"{key}@test".lower(),
            }
            assert self.server.requests[-1].path == b"/route"

    @inlineCallbacks
    def test_a_helo_name_is_no_second_parameter_nor_a_second_line(self):
        client = Client(CLIENT.peer, helo="x&helo=y\r\nX-Evil: 1\r\n\r\nGET / HTTP/1.1 \ud800")
        yield self.lookup(self.mapping(self.server.url()), Question(ALICE, client=client))
        assert len(self.server.requests) == 1
        helo = self.server.parameters()["helo"]
        assert helo == "x&helo=y\r\nX-Evil: 1\r\n\r\nGET / HTTP/1.1 ?"
        assert self.server.header("X-Evil") is None

    @inlineCallbacks
    def test_postmaster_the_null_path_and_a_client_without_address(self):
        mapping = self.mapping(self.server.url())
        client = Client(Peer("", 0, "", 0))
        yield self.lookup(mapping, Question(Path("Postmaster"), sender=NULL_PATH, client=client))
        assert self.server.requests[0].uri == b"/route?recipient=postmaster&sender=&client=&helo="
        assert (yield self.lookup(mapping, Question(NULL_PATH))) == NoRoute()
        assert len(self.server.requests) == 1

    def test_what_it_says_of_itself(self):
        mapping = self.mapping(self.server.url())
        assert mapping.keys(QUESTION) == ("alice+news@example.com",)
        assert list(mapping.listed()) == []
        assert not mapping.lists_all


class NginxTest(WithService):
    def setUp(self):
        super().setUp()
        self.server = self.served(HttpServer())
        self.server.body = b"it is not read"

    def says(self, status=200, **headers):
        self.server.status = status
        self.server.headers = {name.replace("_", "-"): text for name, text in headers.items()}

    @inlineCallbacks
    def test_a_server(self):
        self.says(Auth_Status="OK", Auth_Server="192.0.2.10", Auth_Port="2525")
        dialect = NginxDialect(Tls.MAY, Identity.XCLIENT)
        answer = yield self.lookup(self.mapping(self.server.url("/auth"), dialect))
        upstream = Upstream((Server("192.0.2.10", 2525),), Tls.MAY, Identity.XCLIENT)
        assert answer == Found(Route(Row(upstream), "http test", "alice+news@example.com"))
        sent = {name: self.server.header(name) for name in NGINX_HEADERS}
        assert sent == NGINX_HEADERS
        assert self.server.requests[0].uri == b"/auth"

    @inlineCallbacks
    def test_a_refusal_reaches_the_client_with_code_and_wait(self):
        text = "Temporary server problem, try again later"
        self.says(Auth_Status=text, Auth_Error_Code="451 4.3.0", Auth_Wait="3")
        answer = yield self.lookup(self.mapping(self.server.url(), NginxDialect()))
        assert answer == Refused(Reply(451, (b"4.3.0 " + text.encode(),)), 3.0)

    @inlineCallbacks
    def test_headers_cannot_be_injected(self):
        evil = "x\r\nAuth-SMTP-To: RCPT TO:<else@example.com>\r\n\r\n\x00é\u2028\ud800"
        client = Client(CLIENT.peer, evil, evil)
        self.says(Auth_Server="192.0.2.10", Auth_Port="25")
        question = Question(Path("josé", "bücher.example"), sender=Path(evil), client=client)
        answer = yield self.lookup(self.mapping(self.server.url(), NginxDialect()), question)
        assert isinstance(answer, Found)
        [request] = self.server.requests
        escaped = "x%0D%0AAuth-SMTP-To: RCPT TO:<else@example.com>%0D%0A%0D%0A%00%C3%A9%E2%80%A8?"
        assert self.server.header("Auth-SMTP-Helo") == escaped
        assert self.server.header("Client-Host") == escaped
        assert self.server.header("Auth-SMTP-From") == f"MAIL FROM:<{escaped}>"
        assert request.requestHeaders.getRawHeaders("Auth-SMTP-To") == [
            "RCPT TO:<jos%C3%A9@b%C3%BCcher.example>"
        ]

    @inlineCallbacks
    def test_a_service_that_is_down_behind_a_balancer_is_tried_again(self):
        self.says(502)
        answer = yield self.lookup(self.mapping(self.server.url(), NginxDialect()))
        assert "its answer, of status 502, has no Auth-Server, or no Auth-Port" in answer.reason


NGINX_HEADERS = {
    "Auth-Method": "none",
    "Auth-User": "",
    "Auth-Pass": "",
    "Auth-Protocol": "smtp",
    "Auth-Login-Attempt": "1",
    "Client-IP": "192.0.2.1",
    "Client-Host": "mail.example.net",
    "Auth-SMTP-Helo": "helo.test",
    "Auth-SMTP-From": "MAIL FROM:<Bob@example.net>",
    "Auth-SMTP-To": "RCPT TO:<Alice+News@Example.com>",
}


def read(**headers):
    named = {name.lower().replace("_", "-"): text for name, text in headers.items()}
    return NginxDialect().read(Response(200, named, b""))


@pytest.mark.parametrize(
    ("headers", "where"),
    [
        ({"Auth_Server": "192.0.2.10", "Auth_Port": "25"}, ("192.0.2.10", 25)),
        ({"Auth_Server": "MX.test", "Auth_Port": "26", "Auth_Status": "OK"}, ("mx.test", 26)),
        ({"Auth_Server": "2001:db8::1", "Auth_Port": "26"}, ("2001:db8::1", 26)),
    ],
)
def test_servers_of_nginx(headers, where):
    assert read(**headers) == Row(Upstream((Server(*where),)))


@pytest.mark.parametrize(
    "headers",
    [
        {"Auth_Status": "OK"},
        {"Auth_Server": "192.0.2.10"},
        {"Auth_Port": "25"},
        {"Auth_Status": "WAIT", "Auth_Wait": "5"},
        {"Auth_Server": "192.0.2.10:26", "Auth_Port": "25"},
        {"Auth_Server": "192.0.2.10", "Auth_Port": "0"},
        {"Auth_Server": "192.0.2.10", "Auth_Port": "smtp"},
        {"Auth_Server": "a b", "Auth_Port": "25"},
        {"Auth_Status": "no", "Auth_Error_Code": "250 2.0.0"},
        {"Auth_Status": "no", "Auth_Error_Code": "354"},
        {"Auth_Status": "no", "Auth_Error_Code": "421 4.3.2"},
        {"Auth_Status": "no", "Auth_Error_Code": "550 4.1.1"},
        {"Auth_Status": "no", "Auth_Error_Code": "550\r\n250 OK"},
        {"Auth_Status": "no", "Auth_Error_Code": "no"},
    ],
)
def test_what_is_no_answer_of_nginx(headers):
    with pytest.raises(ValueError):
        read(**headers)


def test_a_server_without_port_is_told_as_nginx_would():
    with pytest.raises(ValueError, match="status 200, has no Auth-Server, or no Auth-Port"):
        read(Auth_Server="192.0.2.10")


@pytest.mark.parametrize(
    ("headers", "line", "wait"),
    [
        ({"Auth_Status": "Invalid user"}, b"535 5.7.0 Invalid user", 0),
        ({"Auth_Status": "no", "Auth_Error_Code": "550"}, b"550 no", 0),
        ({"Auth_Status": "no", "Auth_Error_Code": "550 5.1.1"}, b"550 5.1.1 no", 0),
        ({"Auth_Status": "ok"}, b"535 5.7.0 ok", 0),
        ({"Auth_Status": "no", "Auth_Wait": "9"}, b"535 5.7.0 no", 9),
        ({"Auth_Status": "no", "Auth_Wait": "86400"}, b"535 5.7.0 no", MAX_WAIT),
        ({"Auth_Status": "no", "Auth_Wait": "-1"}, b"535 5.7.0 no", 0),
        ({"Auth_Status": "no", "Auth_Wait": "soon"}, b"535 5.7.0 no", 0),
        ({"Auth_Status": "é\x00\r\n250 OK"}, b"535 5.7.0 ????250 OK", 0),
    ],
)
def test_refusals_of_nginx(headers, line, wait):
    refused = read(**headers)
    assert isinstance(refused, Refused)
    assert refused.reply.encode() == line + b"\r\n"
    assert refused.wait == wait


def test_a_refusal_fits_a_reply():
    assert len(read(Auth_Status="x" * 9000).reply.encode()) <= 512


def test_nginx_is_told_of_an_unknown_client_in_its_own_words():
    client = Client(Peer("", 0, "", 0), UNAVAILABLE)
    asked = NginxDialect().ask(Question(Path("Postmaster"), sender=NULL_PATH, client=client))
    assert asked.headers["Client-IP"] == "unix:"
    assert asked.headers["Client-Host"] == "[UNAVAILABLE]"
    assert asked.headers["Auth-SMTP-From"] == "MAIL FROM:<>"
    assert asked.headers["Auth-SMTP-To"] == "RCPT TO:<Postmaster>"
    assert "Client-IP" not in NginxDialect().ask(Question(ALICE)).headers


@given(st.text(max_size=40), st.text(max_size=40))
def test_whatever_is_asked_is_one_request(text, helo):
    path = parse_path(text)
    client = Client(CLIENT.peer, helo, helo)
    for recipient in (ALICE, path or ALICE):
        question = Question(recipient, sender=Path(text), client=client)
        asked = JsonDialect().ask(question)
        url = Url("http", "a.test", 80, "/").with_query(asked.parameters)
        assert url.count(b"&") == 3 and all(0x20 < octet < 0x7F for octet in url)
        for value in NginxDialect().ask(question).headers.values():
            assert all(" " <= letter <= "~" for letter in value)


class TransportTest(WithService):
    """How an answer gets here, or does not."""

    @inlineCallbacks
    def test_a_connection_is_used_again_and_one_that_was_closed_costs_nothing(self):
        server = self.served(HttpServer())
        server.body = b'{"server": "mx.test:26"}'
        mapping = self.mapping(server.url())
        yield self.lookup(mapping)
        yield self.lookup(mapping)
        assert len(set(server.connections)) == 1
        yield server.drop()
        assert isinstance((yield self.lookup(mapping)), Found)
        assert len(set(server.connections)) == 2

    @inlineCallbacks
    def test_no_more_connections_than_allowed(self):
        server = self.served(HttpServer())
        server.hold = True
        mapping = self.mapping(server.url(), connections=2)
        came = server.next_request()
        answers = [self.lookup(mapping) for _ in range(5)]
        yield came
        while len(server.requests) < 2:
            yield server.next_request()
        assert len(server.requests) == 2
        server.release()
        assert (yield gatherResults(answers)) == [NoRoute()] * 5
        assert len(set(server.connections)) == 2

    @inlineCallbacks
    def test_a_silent_service_is_given_up_in_time(self):
        server = self.served(RawServer())
        answer = self.lookup(self.mapping(server.url(), timeout=5))
        yield server.asked
        self.clock.advance(4.9)
        assert not answer.called
        self.clock.advance(0.4)
        assert (yield answer).reason == f"http://127.0.0.1:{server.port}: no answer within 5 s"
        yield server.lost
        assert len(self.deadlines) == 0

    @inlineCallbacks
    def test_a_body_that_does_not_go_on_is_given_up_in_time(self):
        server = self.served(RawServer(HALF))
        mapping = self.mapping(server.url(), timeout=5)
        arrived = self.body_arrives()
        answer = self.lookup(mapping)
        yield arrived
        self.clock.advance(5.3)
        assert "no answer within 5 s" in (yield answer).reason
        yield server.lost

    @inlineCallbacks
    def test_waiting_for_a_free_connection_counts(self):
        server = self.served(HttpServer())
        server.hold = True
        mapping = self.mapping(server.url(), timeout=5, connections=1)
        came = server.next_request()
        first = self.lookup(mapping)
        yield came
        self.clock.advance(3)
        second = self.lookup(mapping)
        self.clock.advance(2.3)
        assert "no answer within 5 s" in (yield first).reason
        server.hold = False
        assert (yield second) == NoRoute()
        server.hold = True
        came = server.next_request()
        first, second = self.lookup(mapping), self.lookup(mapping)
        yield came
        self.clock.advance(5.3)
        for answer in (first, second):
            assert "no answer within 5 s" in (yield answer).reason
        assert len(server.requests) == 3

    @inlineCallbacks
    def test_who_asked_may_leave(self):
        for sent in ([], [HALF]):
            server = self.served(RawServer(*sent))
            mapping = self.mapping(server.url(), connections=1)
            waited_for = self.body_arrives() if sent else server.asked
            answers = [self.lookup(mapping) for _ in range(3)]
            yield waited_for
            for answer in (answers[1], answers[0], answers[2]):
                answer.cancel()
                self.failureResultOf(answer, CancelledError)
            yield server.lost
            assert len(self.deadlines) == 0

    @inlineCallbacks
    def test_nobody_listens(self):
        answer = yield self.lookup(self.mapping(f"http://127.0.0.1:{free_port()}/"))
        assert "refused" in answer.reason

    @inlineCallbacks
    def test_answers_of_the_wrong_kind(self):
        for sent, words in (
            ([], "Connection was closed cleanly"),
            ([b"\x15\x03\x01\x00\x02\x02\x0a"], "its answer is not HTTP"),
            ([b"HTTP/1.1 two hundred\r\n\r\n"], "its answer is not HTTP"),
            ([b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"], "its answer is not HTTP"),
            ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n{}"], "its answer is not HTTP"),
            ([b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{}"], "its answer is not HTTP"),
            ([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}"], "Connection was closed cleanly"),
            ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}"], "Connection"),
            ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno\r\n{}"], "not HTTP"),
        ):
            server = self.served(RawServer(*sent, hangs_up=True))
            answer = yield self.lookup(self.mapping(server.url()))
            assert isinstance(answer, TryAgain), sent
            assert words in answer.reason, (sent, answer)
            assert answer.reason.isprintable()

    @inlineCallbacks
    def test_answers_of_the_right_kind_in_other_forms(self):
        body = b'{"server": "mx.test:26"}'
        for sent in (
            [b"HTTP/1.0 200 OK\r\n\r\n", body],
            [b"HTTP/1.1 200\r\nConnection: close\r\nContent-Length: 24\r\n\r\n", body],
            [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 24\r\n\r\n", body],
            [b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n18\r\n", body, b"\r\n0\r\n\r\n"],
        ):
            server = self.served(RawServer(*sent, hangs_up=True))
            answer = yield self.lookup(self.mapping(server.url()))
            assert isinstance(answer, Found), (sent, answer)

    @inlineCallbacks
    def test_what_has_no_end_is_given_up(self):
        ok = b"HTTP/1.1 200 OK\r\n"
        for first, endless in (
            (b"", b"x" * 4096),
            (b"HTTP/1.1 200 " + b"O" * 4096, b"K" * 4096),
            (ok, b"X-Flood: 1\r\n" * 99),
            (ok + b"X-Long: ", b"\r\n x" * 999),
            (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 99),
            (ok + b"\r\n{}", b" " * 4096),
            (ok + b"Content-Length: 99999999999\r\n\r\n{}", b" " * 4096),
            (ok + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", b"1\r\n \r\n" * 99),
        ):
            server = self.served(RawServer(first, endless=endless))
            answer = yield self.lookup(self.mapping(server.url()))
            assert isinstance(answer, TryAgain), (first, endless[:9])
            yield server.lost

    @inlineCallbacks
    def test_how_long_an_answer_may_be(self):
        server = self.served(HttpServer())
        mapping = self.mapping(server.url())
        server.body = b"{}".ljust(MAX_BODY)
        assert (yield self.lookup(mapping)) == NoRoute()
        server.body += b" "
        answer = yield self.lookup(mapping)
        assert f"its answer is longer than {MAX_BODY} octets" in answer.reason
        server.body, server.headers = b"{}", {f"X-{number}": "x" * 999 for number in range(90)}
        answer = yield self.lookup(mapping)
        assert f"its answer is longer than {MAX_ANSWER} octets" in answer.reason

    @inlineCallbacks
    def test_the_sum_of_many_answers_has_no_bound(self):
        server = self.served(HttpServer())
        server.body = b"{}".ljust(MAX_BODY)
        mapping = self.mapping(server.url())
        for _ in range(3):
            assert (yield self.lookup(mapping)) == NoRoute()
        assert len(set(server.connections)) == 1


class TlsTest(WithService):
    def setUp(self):
        super().setUp()
        self.authority = Authority(self.folder)
        self.context = client_context(self.authority.file)

    def service(self, certificate):
        server = self.served(HttpServer(certificate))
        server.body = b'{"server": "mx.test:26"}'
        return server

    @inlineCallbacks
    def test_a_certificate_that_verifies_by_name_and_by_address(self):
        server = self.service(self.authority.certificate("localhost", "127.0.0.1"))
        for host in ("localhost", "127.0.0.1"):
            mapping = self.mapping(server.url(scheme="https", host=host), context=self.context)
            assert isinstance((yield self.lookup(mapping)), Found)
            assert isinstance((yield self.lookup(mapping)), Found)
        assert len(set(server.connections)) == 2

    @inlineCallbacks
    def test_a_certificate_that_does_not_verify_gets_no_request(self):
        strange = self.folder / "stranger"
        strange.mkdir()
        stranger = Authority(strange).certificate("localhost")
        for certificate, words in (
            (self.authority.certificate("other.test"), "name localhost does not match"),
            (stranger, "issuer is not trusted"),
            (self.authority.expired("localhost"), "certificate has expired"),
        ):
            server = self.service(certificate)
            mapping = self.mapping(
                server.url(scheme="https", host="localhost"), context=self.context
            )
            answer = yield self.lookup(mapping)
            assert isinstance(answer, TryAgain)
            assert words in answer.reason
            assert server.requests == []

    @inlineCallbacks
    def test_not_even_the_first_octets_of_a_request(self):
        certificate = self.authority.certificate("other.test")
        server = self.served(RawServer(certificate=certificate))
        mapping = self.mapping(server.url("https", "localhost"), context=self.context)
        answer = yield self.lookup(mapping)
        assert "does not match" in answer.reason
        yield server.lost
        assert server.received == b""

    @inlineCallbacks
    def test_a_silent_service_is_gone_at_once_without_its_goodbye(self):
        certificate = self.authority.certificate("localhost")
        for sent in ([], [HALF]):
            server = self.served(RawServer(*sent, certificate=certificate))
            mapping = self.mapping(server.url("https", "localhost"), context=self.context)
            waited_for = self.body_arrives() if sent else server.asked
            answer = self.lookup(mapping)
            yield waited_for
            self.clock.advance(5.3)
            assert "no answer within 5 s" in (yield answer).reason
            yield server.lost

    @inlineCallbacks
    def test_a_service_that_speaks_something_else(self):
        for scheme, words in (("http", "its answer is not HTTP"), ("https", "TLS fails")):
            server = self.served(RawServer(greeting=b"220 mx.test ESMTP\r\n"))
            mapping = self.mapping(server.url(scheme), context=self.context)
            answer = yield self.lookup(mapping)
            assert words in answer.reason
            assert answer.reason.isprintable()
            yield server.lost

    def test_https_without_a_context_is_a_fault_of_ours(self):
        with pytest.raises(ValueError):
            self.mapping("https://maps.test/")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://maps.test", Url("http", "maps.test", 80, "/")),
        ("HTTPS://Maps.Test/Route", Url("https", "maps.test", 443, "/Route")),
        (" http://maps.test:8080/a?b=c ", Url("http", "maps.test", 8080, "/a?b=c")),
        ("http://maps.test?b=c", Url("http", "maps.test", 80, "/?b=c")),
        ("http://[2001:DB8::1]:80/", Url("http", "2001:db8::1", 80, "/")),
        ("http://192.0.2.1/", Url("http", "192.0.2.1", 80, "/")),
        ("http://map_service:8080/", Url("http", "map_service", 8080, "/")),
        ("http://bücher.example/ü", Url("http", "xn--bcher-kva.example", 80, "/%C3%BC")),
        ("http://maps.test/%2F?a=%26", Url("http", "maps.test", 80, "/%2F?a=%26")),
    ],
)
def test_urls(text, url):
    assert parse_url(text) == url


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "not a URL of http or https"),
        ("maps.test", "give http://host/path"),
        ("ftp://maps.test/", "not a URL of http or https"),
        ("unix:/run/maps", "not a URL of http or https"),
        ("http:///route", "not a URL of http or https"),
        ("http://maps.test:0/", "'0' is not a port"),
        ("http://maps.test:99999/", "with a port from 1 to 65535"),
        ("http://maps.test:http/", "with a port from 1 to 65535"),
        ("http://me:hush@maps.test/", "give the header Authorization instead"),
        ("http://maps.test/#here", "holds a #"),
        ("http://ma ps.test/", "is not a host name"),
        ("http://[::1", "not a URL"),
        ("http://192.0.2.300/", "is not an IPv4 address"),
    ],
)
def test_what_is_no_url(text, hint):
    with pytest.raises(ValueError) as caught:
        parse_url(text)
    assert hint in str(caught.value)
    assert "hush" not in str(caught.value)


def test_a_url_is_shown_without_what_may_be_secret():
    assert str(parse_url("https://[2001:db8::1]/hush?hush")) == "https://[2001:db8::1]:443"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("", "x"),
        ("X Y", "x"),
        ("X:", "x"),
        ("X\r\nY", "x"),
        ("É", "x"),
        ("Connection", "close"),
        ("content-LENGTH", "1"),
        ("X", "a\r\nY: b"),
        ("X", " a"),
        ("X", "é"),
    ],
)
def test_headers_that_cannot_be_added(name, value):
    with pytest.raises(ValueError):
        check_headers({name: value})


def test_headers_that_can():
    check_headers({"X-Auth-Key": 'a secret: "yes"', "Authorization": "Basic eDp5", "X": ""})
