"""TLS on both sides of a session, over loopback: real sockets, real handshakes."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import inlineCallbacks

from smtpproxy import stream
from smtpproxy.events import Disconnected, TlsStarted, TransactionEnded, UpstreamFailed
from smtpproxy.routing import Tls, Upstream
from tests.support.certificates import self_signed
from tests.support.tls import Client, TlsServer, TlsTest, at

NOT_VERIFIED = "451 4.7.5 The server of this recipient cannot be verified"


class TlsSessionTest(TlsTest):
    # From clients

    @inlineCallbacks
    def test_a_client_starts_tls_and_the_session_begins_anew(self):
        server = self.server(None)

        def conversation(client: Client) -> None:
            assert "250-STARTTLS" in client.ask("EHLO client.example.com")
            assert client.ask("MAIL FROM:<s@example.org>").startswith("250")
            assert client.ask("STARTTLS").startswith("503"), "inside a transaction"
            assert client.ask("RSET").startswith("250")
            client.start_tls("mx.example.net")
            assert client.ask("MAIL FROM:<s@example.org>") == "503 5.5.1 Send EHLO first"
            assert "STARTTLS" not in client.ask("EHLO client.example.com")
            assert client.ask("STARTTLS") == "503 5.5.1 TLS is active already"
            assert client.ask("MAIL FROM:<s@example.org>").startswith("250")
            assert client.ask("QUIT").startswith("221")
            assert client.hear() == ""

        yield self.converse(at("127.0.0.1", server), conversation)
        (started,) = self.said(TlsStarted)
        self.assertEqual(started.tls.server_name, "mx.example.net")
        self.assertEqual(started.tls.version, "TLSv1.3")

    @inlineCallbacks
    def test_plaintext_behind_starttls_is_not_obeyed(self):
        server = self.server(None)

        def conversation(client: Client) -> str:
            client.ask("EHLO client.example.com")
            client.start_tls("mx.example.net", b"EHLO x\r\nMAIL FROM:<evil@x.test>\r\nNOO")
            return client.ask("P") + "|" + client.ask("MAIL FROM:<s@example.org>")

        heard = yield self.converse(at("127.0.0.1", server), conversation)
        self.assertEqual(heard, "500 5.5.2 Command not recognised|503 5.5.1 Send EHLO first")

    @inlineCallbacks
    def test_a_message_over_tls_on_both_sides(self):
        server = self.server(self.authority.certificate("mx1.test"))

        def conversation(client: Client) -> None:
            client.ask("EHLO client.example.com")
            client.start_tls("mx.example.net")
            client.ask("EHLO client.example.com")
            assert client.ask("MAIL FROM:<s@example.org>").startswith("250")
            assert client.ask("RCPT TO:<a@example.com>") == "250 ok"
            assert client.ask("DATA") == "354 go"
            assert client.ask("one\r\n\r\n..two\r\n.") == "250 taken"
            assert client.ask("QUIT") == "221 2.0.0 Bye"

        yield self.converse(at("mx1.test", server), conversation)
        self.assertEqual(server.mails(), [(1, True)])
        self.assertIn((1, True, "..two"), server.told)
        (ended,) = self.said(TransactionEnded)
        self.assertTrue(ended.upstream_tls.verified)
        self.assertEqual(ended.client_tls.version, "TLSv1.3")

    @inlineCallbacks
    def test_a_client_that_does_not_speak_tls_after_all(self):
        server = self.server(None)

        def conversation(client: Client) -> None:
            client.ask("EHLO client.example.com")
            assert client.ask("STARTTLS").startswith("220")
            client.socket.sendall(b"EHLO client.example.com\r\n" * 3)
            heard = client.socket.recv(1000)
            assert b"250" not in heard

        yield self.converse(at("127.0.0.1", server), conversation)
        (left,) = self.said(Disconnected)
        self.assertEqual(left.after, "STARTTLS")
        self.assertTrue(left.reason.startswith("lost connection"), left.reason)

    @inlineCallbacks
    def test_a_client_whose_handshake_never_ends(self):
        server = self.server(None)

        def conversation(client: Client) -> bytes:
            client.ask("EHLO client.example.com")
            assert client.ask("STARTTLS").startswith("220")
            return client.socket.recv(1000)

        self.patch(stream, "CLOSE_TIME", 0.3)
        try:
            heard = yield self.converse(at("127.0.0.1", server), conversation)
        except ConnectionResetError:
            heard = b""
        self.assertEqual(heard, b"", "nothing in clear, where TLS was agreed on")
        (left,) = self.said(Disconnected)
        self.assertEqual((left.after, left.reason), ("STARTTLS", "timeout: not done within 1 s"))

    # To upstreams

    @inlineCallbacks
    def test_verified_by_name(self):
        server = self.server(self.authority.certificate("mx1.test"))
        reply = yield self.converse(at("mx1.test", server), self.rcpt)
        self.assertEqual(reply, "250 ok")
        self.assertEqual(server.mails(), [(1, True)])
        self.assertEqual(server.asked_for, ["mx1.test"])

    @inlineCallbacks
    def test_verified_by_address(self):
        server = self.server(self.authority.certificate("127.0.0.1"))
        reply = yield self.converse(at("127.0.0.1", server), self.rcpt)
        self.assertEqual(reply, "250 ok")
        self.assertEqual(server.mails(), [(1, True)])
        self.assertEqual(server.asked_for, [None])

    @inlineCallbacks
    def refused(self, upstream: Upstream, server: TlsServer, reason: str):
        reply = yield self.converse(upstream, self.rcpt)
        self.assertEqual(reply, NOT_VERIFIED)
        self.assertEqual(server.mails(), [])
        (failed,) = self.said(UpstreamFailed)
        self.assertIn(reason, failed.reason)

    @inlineCallbacks
    def test_the_wrong_name(self):
        server = self.server(self.authority.certificate("mx2.test"))
        yield self.refused(at("mx1.test", server), server, "does not match")

    @inlineCallbacks
    def test_the_wrong_address(self):
        server = self.server(self.authority.certificate("192.0.2.1", "mx1.test"))
        yield self.refused(at("127.0.0.1", server), server, "does not match")

    @inlineCallbacks
    def test_an_unknown_authority(self):
        server = self.server(self_signed(self.folder, "mx1.test"))
        yield self.refused(at("mx1.test", server), server, "self-signed certificate")

    @inlineCallbacks
    def test_an_expired_certificate(self):
        server = self.server(self.authority.expired("mx1.test"))
        yield self.refused(at("mx1.test", server), server, "expired")

    @inlineCallbacks
    def test_no_handshake_where_the_certificate_must_verify(self):
        server = self.server(None)
        yield self.refused(at("mx1.test", server), server, "TLS handshake: ")

    @inlineCallbacks
    def test_a_bad_certificate_that_need_not_verify_still_encrypts(self):
        server = self.server(self_signed(self.folder, "mx2.test"))
        upstream = at("mx1.test", server, Tls.MAY)
        reply = yield self.converse(upstream, self.rcpt)
        self.assertEqual(reply, "250 ok")
        self.assertEqual(server.mails(), [(1, True)])
        (ended,) = self.said(TransactionEnded)
        self.assertFalse(ended.upstream_tls.verified)

    @inlineCallbacks
    def test_no_handshake_where_nobody_must_be_verified(self):
        """A fresh connection, in clear: the broken one is not used any further."""
        server = self.server(None)
        upstream = at("mx1.test", server, Tls.MAY)
        reply = yield self.converse(upstream, self.rcpt)
        self.assertEqual(reply, "250 ok")
        self.assertEqual(server.mails(), [(2, False)])
        self.assertNotIn((2, False, "STARTTLS"), server.told)

    # Sessions of TLS that are resumed

    def twice(self, client: Client, between: Callable[[], None] = lambda: None) -> list[str]:
        """Two recipients, each with a connection to the upstream of its own."""
        first = self.rcpt(client)
        assert client.ask("RSET").startswith("250")
        client.start_tls("mx.example.net")  # by which the client becomes another one
        between()
        return [first, self.rcpt(client)]

    @inlineCallbacks
    def test_the_next_connection_to_an_upstream_resumes_the_tls_session(self):
        server = self.server(self.authority.certificate("mx1.test"))
        replies = yield self.converse(at("mx1.test", server, Tls.VERIFY), self.twice)
        self.assertEqual(replies, ["250 ok"] * 2)
        self.assertEqual(server.mails(), [(1, True), (2, True)])
        self.assertEqual(server.resumed, [False, True])
        self.assertTrue(all(it.upstream_tls.verified for it in self.said(TransactionEnded)))

    @inlineCallbacks
    def test_a_session_that_was_not_trusted_is_none_the_more_when_it_is_resumed(self):
        server = self.server(self_signed(self.folder, "mx1.test"))
        yield self.converse(at("mx1.test", server, Tls.MAY), self.twice)
        self.assertEqual(server.resumed, [False, True])
        self.assertFalse(any(it.upstream_tls.verified for it in self.said(TransactionEnded)))

    @inlineCallbacks
    def resuming_fails(self, upstream: Upstream, server: TlsServer):
        """For the second recipient, since the server does not speak TLS for once."""

        def conversation(client: Client) -> list[str]:
            def spoil() -> None:
                server.stumbles = 1

            return self.twice(client, spoil)

        replies = yield self.converse(upstream, conversation)
        self.assertEqual(replies, ["250 ok"] * 2)
        self.assertEqual(server.mails(), [(1, True), (3, True)])
        self.assertEqual(server.resumed, [False, False])

    @inlineCallbacks
    def test_where_resuming_fails_a_whole_handshake_does_it(self):
        server = self.server(self.authority.certificate("mx1.test"))
        yield self.resuming_fails(at("mx1.test", server, Tls.VERIFY), server)

    @inlineCallbacks
    def test_where_resuming_fails_nothing_is_sent_in_clear_for_it(self):
        server = self.server(self_signed(self.folder, "mx1.test"))
        yield self.resuming_fails(at("mx1.test", server, Tls.MAY), server)

    @inlineCallbacks
    def test_where_the_whole_handshake_fails_too_all_is_as_it_is_without_sessions(self):
        server = self.server(self.authority.certificate("mx1.test"))

        def conversation(client: Client) -> list[str]:
            def spoil() -> None:
                server.certificate = None

            return self.twice(client, spoil)

        replies = yield self.converse(at("mx1.test", server), conversation)
        self.assertEqual(replies, ["250 ok", NOT_VERIFIED])
        self.assertEqual(server.mails(), [(1, True)])
