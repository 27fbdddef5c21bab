"""smtpproxy probe, against servers of this process on loopback."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol
from twisted.internet.utils import getProcessOutputAndValue

from smtpproxy import tls
from smtpproxy.cli import probe
from smtpproxy.cli.visiting import Visitor
from smtpproxy.config import load
from smtpproxy.dns import NotFound
from smtpproxy.routing import Identity, Tls, Upstream, parse_servers
from tests.support.certificates import Authority, Certificate, self_signed
from tests.support.ports import free_port
from tests.support.trial import TestCase

EHLO = "250-mx1.test\r\n250-SIZE 100000\r\n250 {}"
XCLIENT = "XCLIENT NAME ADDR PORT PROTO HELO"
CLEAR = {"": "220 mx1.test ESMTP", "EHLO": EHLO.format("8BITMIME"), "QUIT": "221 Bye"}


def upstream(servers: str, tls: Tls = Tls.OFFERED, identity: Identity = Identity.AUTO) -> Upstream:
    return Upstream(parse_servers(servers), tls, identity)


@dataclass
class Script:
    """What a server answers to which verb, in clear and in TLS; "" is the greeting.

    Without a `certificate`, it hangs up on a TLS handshake. `stays`: also after QUIT.
    """

    clear: dict[str, str] = field(default_factory=lambda: dict(CLEAR))
    secured: dict[str, str] = field(default_factory=lambda: dict(CLEAR))
    certificate: Certificate | None = None
    stays: bool = False
    said: list[str] = field(default_factory=list)  # by clients
    on_said: Callable[[], object] = lambda: None


class Server(Protocol):
    def __init__(self, script):
        self.script = script
        self.answers = script.clear
        self.ended: Deferred[None] = Deferred()

    def connectionMade(self):
        self.say("")

    def say(self, verb):
        if answer := self.answers.get(verb, "502 What?"):
            self.transport.write(answer.encode("latin-1") + b"\r\n")

    def dataReceived(self, data):
        if data.startswith((b"PROXY ", b"\r\n\r\n\0")):
            self.script.said.append(data)
            return
        if not data.endswith(b"\r\n"):  # TLS, where none was meant
            self.transport.abortConnection()
            return
        (line,) = data.decode("ascii").splitlines()
        verb = line.partition(" ")[0]
        self.script.said.append(line)
        self.script.on_said()
        self.say(verb)
        if verb == "STARTTLS" and self.script.certificate:
            pair = self.script.certificate
            self.answers = self.script.secured
            self.transport.startTLS(tls.ServerTls(tls.server_context(pair.chain, pair.key)))
        elif verb == "QUIT" and not self.script.stays:
            self.transport.loseConnection()

    def connectionLost(self, reason=None):
        self.ended.callback(None)


def answering(**answers):
    """A server without TLS that answers so; `_` is its greeting."""
    answers = {verb.strip("_"): answer for verb, answer in answers.items()}
    return Script({**CLEAR, **answers})


def starttls(certificate=None):
    """A server that offers TLS."""
    return Script(
        {**CLEAR, "EHLO": EHLO.format("STARTTLS"), "STARTTLS": "220 Go"}, certificate=certificate
    )


class Case(TestCase):
    timeout = 60

    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="sp-", dir="/tmp"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.authority = Authority(self.folder)

    def serve(self, script, host="127.0.0.1"):
        """The port it listens on; `host` may be the path of a Unix socket instead."""
        servers = []

        def begun():
            servers.append(Server(script))
            return servers[-1]

        factory: Any = Factory.forProtocol(begun)
        factory.noisy = False
        if host.startswith("/"):
            port = reactor.listenUNIX(host, factory)
        else:
            port = reactor.listenTCP(0, factory, interface=host)
        self.addCleanup(lambda: DeferredList([server.ended for server in servers]))
        self.addCleanup(port.stopListening)
        return getattr(port.getHost(), "port", 0)

    def config(self, *servers, listen="127.0.0.1:2525", more=""):
        rows = "".join(f"d{n}.test;{server}\n" for n, server in enumerate(servers))
        (self.folder / "mapping.csv").write_text(f"pattern;server;tls_verify\n{rows}")
        file = self.folder / "smtpproxy.toml"
        file.write_text(
            f'domain = "mx.example.net"\ntls_ca = "{self.authority.file}"\n'
            f'dns.reverse = false\nlisteners = [{{listen = "{listen}"}}]\n'
            f'mappings = [{{type = "csv", file = "mapping.csv"}}]\n{more}'
        )
        return file

    def visitor(self, seconds=10.0, listen="127.0.0.1:2525", **more):
        visitor = Visitor(reactor, load(self.config(listen=listen), {}), seconds, **more)
        self.addCleanup(visitor.stop)
        return visitor

    async def facts(
        self, script, tls=Tls.OFFERED, identity=Identity.AUTO, host="127.0.0.1", **more
    ):
        """What is printed of a server, line by line without the indent; in front, its error."""
        port = self.serve(script)
        report = await self.visitor(**more).visit(upstream(f"{host}:{port}", tls, identity))
        lines = list(probe._lines(report))
        self.assertTrue(lines[0].startswith(f"{host}:{port} ("))
        return report.error, [re.sub(" +", " ", line.strip()) for line in lines[1:]]


class Probing(Case):
    """One server, and what is said of it."""

    async def test_in_clear(self):
        script = Script()
        error, facts = await self.facts(script)
        self.assertIsNone(error)
        self.assertEqual(
            facts,
            [
                "127.0.0.1",
                "greeting 220 mx1.test ESMTP",
                "EHLO SIZE 100000, 8BITMIME",
                "STARTTLS not offered: mail goes in clear",
                "XCLIENT not offered: the server sees this proxy as the client",
                "result would take mail",
            ],
        )
        self.assertEqual(script.said, ["EHLO mx.example.net", "QUIT"])

    async def test_a_size_that_no_server_may_have(self):
        script = answering(EHLO="250-mx1.test\r\n250-SIZE 1\r\n250 8BITMIME")
        error, facts = await self.facts(script)
        self.assertIsNone(error)
        warning = "SIZE 1 is too small: RFC 5321 has every server take 65536; not announced"
        self.assertEqual(facts[2:4], ["EHLO SIZE 1, 8BITMIME", warning])

    async def test_a_long_keyword_hides_no_other(self):
        script = answering(EHLO=f"250-mx1.test\r\n250-{'X' * 3000}\r\n250 8BITMIME")
        _, facts = await self.facts(script)
        self.assertEqual(facts[2], f"EHLO {'X' * 197}..., 8BITMIME")

    async def test_a_certificate_that_verifies(self):
        made = self.authority.certificate("localhost", "127.0.0.1")
        error, facts = await self.facts(starttls(made))
        self.assertIsNone(error)
        self.assertEqual(facts[2], "EHLO SIZE 100000, STARTTLS")
        self.assertRegex(facts[3], r"^STARTTLS TLSv1\.3 TLS_\w+$")
        self.assertRegex(
            facts[4],
            r"^certificate for localhost, 127\.0\.0\.1; issued by \S.*; "
            r"valid until \d{4}-\d\d-\d\d$",
        )
        self.assertEqual(facts[5:7], ["verifies yes", "EHLO SIZE 100000, 8BITMIME"])
        self.assertEqual(facts[-1], "result would take mail")

    async def test_a_certificate_that_must_verify_and_does_not(self):
        script = starttls(self_signed(self.folder, "mx1.test"))
        error, facts = await self.facts(script)
        self.assertEqual(error.reply.code, 451)
        self.assertIn("verifies no: self-signed certificate", facts)
        self.assertTrue(
            facts[-1].startswith(
                "result would not take mail: self-signed certificate; clients are told 451 4.7.5 "
            )
        )

    async def test_a_certificate_that_need_not_verify(self):
        error, facts = await self.facts(starttls(self_signed(self.folder, "mx1.test")), Tls.MAY)
        self.assertIsNone(error)
        self.assertIn("verifies no: self-signed certificate", facts)
        self.assertEqual(facts[-1], "result would take mail")

    async def test_another_name_than_the_one_asked_for(self):
        made = self.authority.certificate("mx2.test", "192.0.2.1")
        _, facts = await self.facts(starttls(made))
        self.assertTrue(facts[4].startswith("certificate for mx2.test, 192.0.2.1; issued by "))
        self.assertTrue(facts[5].startswith("verifies no: name 127.0.0.1 does not match"))

    async def test_a_handshake_that_fails_is_followed_by_one_in_clear(self):
        """As the proxy does where the certificate need not verify."""
        error, facts = await self.facts(starttls(), Tls.MAY)
        self.assertIsNone(error)
        failed = next(i for i, fact in enumerate(facts) if "the handshake failed: " in fact)
        self.assertEqual(
            facts[failed + 1 :],
            [
                "again a new connection, in clear",
                "greeting 220 mx1.test ESMTP",
                "EHLO SIZE 100000, STARTTLS",
                "XCLIENT not offered: the server sees this proxy as the client",
                "result would take mail",
            ],
        )

    async def test_a_handshake_that_fails_where_it_must_verify(self):
        error, facts = await self.facts(starttls())
        self.assertEqual((error.reply.code, error.reply.enhanced), (451, "4.7.5"))
        self.assertIn("STARTTLS the handshake failed: ", facts[-2])

    async def test_xclient(self):
        script = answering(EHLO=EHLO.format(XCLIENT), XCLIENT="220 mx1.test")
        error, facts = await self.facts(script, client="192.0.2.7", helo="mail.test")
        self.assertIsNone(error)
        self.assertRegex(
            facts[3],
            r"^XCLIENT accepted: 220 mx1\.test "
            r"\(to NAME=\[UNAVAILABLE\] HELO=mail\.test PROTO=ESMTP PORT=\d+ ADDR=192\.0\.2\.7\)$",
        )
        self.assertEqual(script.said[2:], ["EHLO mail.test", "QUIT"])

    async def test_xclient_names_this_host_by_default(self):
        script = answering(EHLO=EHLO.format(XCLIENT), XCLIENT="220 mx1.test")
        await self.facts(script)
        self.assertIn(" HELO=mx.example.net ", script.said[1])
        self.assertTrue(script.said[1].endswith(" ADDR=127.0.0.1"))

    async def test_no_mail_without_xclient(self):
        error, facts = await self.facts(Script(), identity=Identity.XCLIENT)
        self.assertEqual(error.reply.code, 451)
        self.assertIn("result would not take mail: it does not offer XCLIENT;", facts[-1])

    async def test_the_proxy_protocol(self):
        script = answering(EHLO=EHLO.format(XCLIENT))
        error, facts = await self.facts(
            script, identity=Identity.PROXY1, client="192.0.2.7", listen="127.0.0.1:2526"
        )
        self.assertIsNone(error)
        self.assertRegex(script.said[0], rb"^PROXY TCP4 192\.0\.2\.7 127\.0\.0\.1 [0-9]+ 2526\r\n$")
        self.assertEqual(facts[1], "PROXY a header of version 1 was sent")
        self.assertEqual(facts[2], "greeting 220 mx1.test ESMTP")
        self.assertFalse([fact for fact in facts if fact.startswith("XCLIENT")])
        script.said.clear()
        error, facts = await self.facts(script, identity=Identity.PROXY2, client="2001:db8::7")
        self.assertIsNone(error)
        self.assertTrue(script.said[0].startswith(b"\r\n\r\n\0\r\nQUIT\n\x21\x21"))
        self.assertEqual(len(script.said[0]), 16 + 36)  # both ends are of IPv6
        self.assertEqual(facts[1], "PROXY a header of version 2 was sent")

    async def test_identities_that_the_handshake_has_no_part_in(self):
        for identity, said in [
            (Identity.RECEIVED, "identity a Received: line in the message"),
            (Identity.NONE, "identity none: the server takes this proxy for the client"),
        ]:
            script = answering(EHLO=EHLO.format(XCLIENT))
            error, facts = await self.facts(script, identity=identity)
            self.assertIsNone(error)
            self.assertEqual(facts[-2], said)
            self.assertEqual(script.said, ["EHLO mx.example.net", "QUIT"])

    async def test_ways_of_tls(self):
        error, facts = await self.facts(starttls(), Tls.NONE)
        self.assertIsNone(error)
        self.assertIn("STARTTLS not asked for: mail goes in clear", facts)
        for way in (Tls.ENCRYPT, Tls.VERIFY):
            error, facts = await self.facts(Script(), way)
            self.assertIn("it does not offer STARTTLS", str(error))
            self.assertNotIn("STARTTLS not offered: mail goes in clear", facts)
        made = starttls(self_signed(self.folder, "mx1.test"))
        self.assertIsNone((await self.facts(made, Tls.ENCRYPT))[0])

    async def test_a_client_that_is_refused(self):
        refusal = "550 5.7.1 192.0.2.7 is blocked"
        script = answering(EHLO=EHLO.format(XCLIENT), XCLIENT=refusal)
        error, facts = await self.facts(script, client="192.0.2.7")
        self.assertEqual(str(error.reply), refusal)
        self.assertTrue(facts[-2].startswith(f"XCLIENT refused: {refusal} (to "))

    async def test_a_greeting_that_refuses(self):
        error, facts = await self.facts(answering(_="554 5.7.1 Go away"))
        self.assertEqual((error.reply.code, error.reply.enhanced), (451, "4.4.0"))
        self.assertEqual(facts[1], "greeting 554 5.7.1 Go away")

    async def test_helo_where_ehlo_is_refused(self):
        script = answering(EHLO="502 No", HELO="250 mx1.test")
        error, facts = await self.facts(script)
        self.assertIsNone(error)
        self.assertEqual(facts[2:4], ["EHLO 502 No", "HELO 250 mx1.test"])

    async def test_a_server_that_says_nothing(self):
        error, facts = await self.facts(answering(_=""), seconds=0.5)
        self.assertEqual(error.reply.enhanced, "4.4.1")
        self.assertIn("no answer", facts[1])

    async def test_a_server_that_does_not_close(self):
        error, _ = await self.facts(Script(stays=True))
        self.assertIsNone(error)

    async def test_what_a_server_says_cannot_drive_the_terminal(self):
        _, facts = await self.facts(answering(_="220 \x1b[2Jmx1 \x9b2J \xc2\x9b2J"))
        self.assertTrue("".join(facts).isascii())
        self.assertTrue("".join(facts).isprintable())

    async def test_nobody_listens(self):
        report = await self.visitor().visit(upstream(f"127.0.0.1:{free_port()}"))
        self.assertEqual(report.error.reply.enhanced, "4.4.1")
        self.assertEqual(report.attempts[0].visits, ())

    async def test_an_unknown_host(self):
        visitor = self.visitor()

        def no_such(host):
            raise NotFound("no such host")

        visitor._addresses._look_up = no_such
        report = await visitor.visit(upstream("mx1.test"))
        self.assertEqual(list(probe._lines(report))[1:2], ["  mx1.test"])
        self.assertIn("no such host", str(report.error))

    async def test_the_proxy_itself(self):
        report = await self.visitor(listen="127.0.0.1:2599").visit(upstream("127.0.0.1:2599"))
        self.assertEqual(str(report.error.reply)[:9], "554 5.4.6")

    async def test_every_address_is_tried(self):
        """One that fails is no harm where another takes mail."""
        port = self.serve(Script(), "127.0.0.3")
        visitor = self.visitor()
        visitor._addresses._look_up = lambda host: ("127.0.0.2", "127.0.0.3", "127.0.0.4")
        report = await visitor.visit(upstream(f"mx1.test:{port}"))
        self.assertEqual(
            [(attempt.address, attempt.error is None) for attempt in report.attempts],
            [("127.0.0.2", False), ("127.0.0.3", True), ("127.0.0.4", False)],
        )
        self.assertIsNone(report.error)
        self.assertEqual(list(probe._lines(report))[-1], "  would take mail")

    async def test_several_servers(self):
        port = self.serve(Script(), "127.0.0.3")
        free = free_port("127.0.0.2")
        visitor = self.visitor()
        report = await visitor.visit(upstream(f"127.0.0.2:{free},127.0.0.3:{port}"))
        lines = list(probe._lines(report))
        self.assertTrue(lines[0].startswith(f"127.0.0.2:{free},127.0.0.3:{port} ("))
        self.assertEqual(
            [line for line in lines if line.startswith("  127.")],
            [f"  127.0.0.2:{free} at 127.0.0.2", f"  127.0.0.3:{port} at 127.0.0.3"],
        )
        self.assertEqual(lines[-1], "  would take mail")
        self.assertIsNone(report.error)

    async def test_lmtp_on_a_unix_socket(self):
        script = answering(XCLIENT="220 Go")
        script.clear["LHLO"] = f"250-store.test\r\n250-STARTTLS\r\n250 {XCLIENT}"
        path = str(self.folder / "lmtp")
        self.serve(script, path)
        report = await self.visitor().visit(upstream(f"lmtp:unix:{path}"))
        self.assertIsNone(report.error)
        facts = [re.sub(" +", " ", line.strip()) for line in probe._lines(report)]
        self.assertEqual(facts[0], f"lmtp:unix:{path} (no TLS on a Unix socket)")
        self.assertEqual(facts[1], path)
        self.assertEqual(facts[3], f"LHLO STARTTLS, {XCLIENT}")
        self.assertTrue(facts[4].startswith("XCLIENT accepted: 220 Go "))
        self.assertIn("STARTTLS not asked for: mail goes in clear", facts)
        self.assertEqual(script.said[0], "LHLO mx.example.net")
        self.assertRegex(script.said[1], r" PORT=[1-9][0-9]* ADDR=127\.0\.0\.1$")
        self.assertEqual(script.said[2:], ["LHLO mx.example.net", "QUIT"])
        report = await self.visitor().visit(upstream(f"unix:{path}.none"))
        self.assertIn("No such file", str(report.error))

    async def test_lmtp_on_a_host(self):
        script = Script({**CLEAR, "LHLO": "250 store.test", "EHLO": "500 This is LMTP"})
        server = f"lmtp:127.0.0.1:{self.serve(script)}"
        report = await self.visitor().visit(upstream(server))
        self.assertIsNone(report.error)
        self.assertEqual(script.said, ["LHLO mx.example.net", "QUIT"])

    async def test_the_hosts_of_a_domain(self):
        port = self.serve(Script())
        visitor = self.visitor()
        hosts = {"example.com": ("mx1.test", "mx2.test")}

        async def of(domain):
            if domain not in hosts:
                raise NotFound("no MX records")
            return hosts[domain]

        visitor._mail_hosts.of = of
        visitor._addresses._look_up = lambda host: ("127.0.0.1",)
        report = await visitor.visit(upstream(f"mx:example.com:{port},mx:example.net"))
        self.assertEqual(
            [(str(each.server), each.address, each.error is None) for each in report.attempts],
            [
                (f"mx1.test:{port}", "127.0.0.1", True),
                (f"mx2.test:{port}", "127.0.0.1", True),
                ("mx:example.net:25", "", False),
            ],
        )
        lines = list(probe._lines(report))
        self.assertIn("  mx:example.net:25", lines)
        self.assertEqual(lines[-1], "  would take mail")


class Child(ProcessProtocol):
    """Gives its status and all that it said."""

    def __init__(self, ended):
        self.ended = ended
        self.said = b""

    def childDataReceived(self, number, data):
        self.said += data

    def processEnded(self, reason):
        self.ended.callback((reason.value.exitCode, self.said))


class Command(Case):
    """The command, as a child process: what it chooses, and how it ends."""

    async def probe(self, file, *arguments):
        """Its status, output and errors."""
        out, err, status = await getProcessOutputAndValue(
            sys.executable,
            ["-m", "smtpproxy", "probe", "--config", str(file), *arguments],
            env=os.environ,
        )
        return status, out.decode(), err.decode()

    async def test_a_server(self):
        script = starttls(self_signed(self.folder, "mx1.test"))
        server = f"127.0.0.1:{self.serve(script)}"
        file = self.config("192.0.2.1")
        status, out, err = await self.probe(file, server)
        self.assertEqual((status, err), (1, ""))
        self.assertTrue(out.startswith(f"{server} (TLS where offered; its certificate must "))
        status, out, err = await self.probe(file, "--no-verify", server)
        self.assertEqual((status, err), (0, ""))
        self.assertTrue(out.startswith(f"{server} (TLS where offered; its certificate need not "))

    async def test_a_server_and_how_to_talk_to_it(self):
        script = starttls(self_signed(self.folder, "mx1.test"))
        server = f"127.0.0.1:{self.serve(script)}"
        words = ["--tls", "encrypt", "--identity", "none", server]
        status, out, err = await self.probe(self.config("192.0.2.1"), *words)
        self.assertEqual((status, err), (0, ""))
        self.assertTrue(
            out.startswith(
                f"{server} (TLS always; its certificate need not verify; identity: none: the server"
            )
        )

    async def test_the_servers_of_a_database(self):
        server = f"127.0.0.1:{self.serve(Script())}"
        file = self.config("192.0.2.1")
        query = "SELECT server FROM routes"
        with sqlite3.connect(self.folder / "routes.db") as routes:
            routes.execute("CREATE TABLE routes (pattern TEXT, server TEXT)")
            routes.execute("INSERT INTO routes VALUES ('a.test', ?)", [server])
        text = re.sub("mappings = .*\n", "", file.read_text())
        file.write_text(
            f'{text}[[mappings]]\ntype = "sqlite"\nfile = "routes.db"\n'
            f'query = "{query} WHERE pattern = ?"\nupstreams_query = "{query}"\n'
        )
        for words in ([], ["alice@a.test"]):
            status, out, err = await self.probe(file, *words)
            self.assertEqual((status, err), (0, ""))
            self.assertTrue(out.startswith(f"{server} ("))
        file.write_text(file.read_text().replace("FROM routes", "FROM other"))
        for words in ([], ["alice@a.test"]):
            status, out, err = await self.probe(file, *words)
            self.assertEqual((status, out), (2, ""))
            self.assertIn("no such table: other", err)

    async def test_the_server_of_a_recipient(self):
        first, second = (f"127.0.0.1:{self.serve(Script())}" for _ in range(2))
        status, out, _ = await self.probe(self.config(first, second), "alice@d1.test")
        self.assertEqual(status, 0)
        self.assertTrue(out.startswith(f"{second} "))
        self.assertNotIn(first, out)

    async def test_every_server(self):
        servers = [f"127.0.0.1:{self.serve(Script())}" for _ in range(3)]
        file = self.config(*servers)
        status, out, err = await self.probe(file)
        self.assertEqual((status, err), (0, ""))
        self.assertEqual(
            [line.split()[0] for line in out.splitlines() if not line.startswith(" ")], servers
        )
        status, out, _ = await self.probe(self.config(*servers, f"127.0.0.1:{free_port()}"))
        self.assertEqual(status, 1)
        self.assertEqual(out.count("would take mail"), 3)

    async def test_a_wait_is_bounded(self):
        server = f"127.0.0.1:{self.serve(answering(_=''))}"
        status, out, _ = await self.probe(self.config(server), "--timeout", "500ms")
        self.assertEqual(status, 1)
        self.assertIn("451 4.4.1", out)

    async def test_ctrl_c_is_no_answer(self):
        script = answering(EHLO="")
        ended: Deferred[tuple[int, bytes]] = Deferred()
        child = Child(ended)
        script.on_said = lambda: child.transport.signalProcess("INT")
        server = f"127.0.0.1:{self.serve(script)}"
        words = ["probe", "--config", str(self.config(server))]
        reactor.spawnProcess(
            child, sys.executable, [sys.executable, "-m", "smtpproxy", *words], env=os.environ
        )
        self.assertEqual(await ended, (130, b""))

    async def test_what_cannot_be_probed(self):
        file = self.config("192.0.2.1")
        for arguments, status, said in [
            (["alice@elsewhere.test"], 1, "alice@elsewhere.test has no route"),
            (["mx1.test:smtp"], 2, "neither a recipient nor a server: 'smtp' is not a port"),
            (["--no-verify"], 2, "are for a SERVER"),
            (["--tls", "may", "alice@d0.test"], 2, "are for a SERVER"),
            (["--identity", "none"], 2, "are for a SERVER"),
        ]:
            *ended, err = await self.probe(file, *arguments)
            self.assertEqual(ended, [status, ""])
            self.assertIn(said, err)

    async def test_faults(self):
        status, out, err = await self.probe(self.config("192.0.2.1", "nonsense:0"))
        self.assertEqual((status, out), (2, ""))
        self.assertIn("mapping.csv:3: server: ", err)
        self.authority.file.write_text("")
        status, out, err = await self.probe(self.config("192.0.2.1"))
        self.assertEqual((status, out), (2, ""))
        self.assertIn(f"{self.authority.file}: ", err)
