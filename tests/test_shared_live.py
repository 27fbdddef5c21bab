"""Limits that several running proxies keep together through a real Redis, which also fails."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from twisted.internet import reactor

from smtpproxy.redis import RedisStore
from smtpproxy.store import News, StoreFailed, parse_place
from tests.support.certificates import Authority
from tests.support.ports import free_port
from tests.support.processes import short_folder, wait_until
from tests.support.proxy import Proxy, row
from tests.support.redis_server import Redis
from tests.support.trial import TestCase

FROM_YOU = b"421 4.7.0 Too many connections from your address\r\n"
GREETING = b"220 mx.example.net ESMTP smtpproxy\r\n"
SHARED = "limits are shared through"
ALONE = "limits are not shared"


@contextmanager
def proxies(count: int, **limits) -> Iterator[list[Proxy]]:
    """So many, with the same limits for the client 127.0.0.1."""
    rows = [row("example.com", f"127.0.0.1:{free_port()}")]
    with ExitStack() as stack:
        made = []
        for _ in range(count):
            folder = stack.enter_context(short_folder())
            proxy = Proxy(folder, rows, limits={"exempt": [], **limits})
            stack.callback(proxy.stop)
            made.append(proxy)
        yield made


@contextmanager
def connected(proxy: Proxy) -> Iterator[bytes]:
    """What a client is told that stays for a while."""
    with socket.create_connection(("127.0.0.1", proxy.port), 10) as connection:
        yield connection.recv(200)


def said(proxy: Proxy, text: str, count: int = 1) -> None:
    proxy.wait_for(lambda: proxy.output.count(text) >= count, text)


def let_in(proxy: Proxy) -> bool:
    with connected(proxy) as told:
        return told.startswith(b"220 ")


@pytest.fixture
def redis(folder: Path) -> Iterator[Redis]:
    with Redis(folder) as it:
        yield it


def test_connections_of_a_client_to_both_of_two(redis: Redis) -> None:
    with proxies(2, max_connections_per_address=2, shared=redis.unix) as (one, two):
        said(one, SHARED)
        said(two, SHARED)
        with connected(one) as first, connected(two) as second:
            assert first == second == GREETING
            for each in (one, two):
                with connected(each) as told:
                    assert told == FROM_YOU
        wait_until(lambda: let_in(one), 5, "room again")
        assert redis.say("KEYS", "*") == "smtpproxy:127.0.0.1/32"
        assert 0 < int(redis.say("TTL", "smtpproxy:127.0.0.1/32")) <= 60


def test_never_more_than_allowed_however_fast(redis: Redis) -> None:
    """Each has told of its session before it hears of the others': there is no moment between."""
    with (
        proxies(2, shared=redis.unix, max_connections_per_address=5) as both,
        ExitStack() as stack,
    ):
        for each in both:
            said(each, SHARED)
        ports = [each.port for each in both] * 10
        clients = [socket.socket() for _ in ports]
        for client, port in zip(clients, ports, strict=True):
            stack.enter_context(client)
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
        for client in clients:
            client.settimeout(10)
        told = [client.recv(200)[:3] for client in clients]
        assert 1 <= told.count(b"220") <= 5


def test_messages_within_a_minute_to_both(redis: Redis) -> None:
    with proxies(2, max_messages_per_minute=10, shared=redis.unix) as both:
        for each in both:
            said(each, SHARED)
        with ExitStack() as stack:
            files = []
            for each in both:
                client = socket.create_connection(("127.0.0.1", each.port), 10)
                stack.enter_context(client)
                files.append(stack.enter_context(client.makefile("rwb")))
                assert files[-1].readline() == GREETING

            def says(file, line: str) -> str:
                file.write(f"{line}\r\n".encode())
                file.flush()
                return file.readline().decode()[:3]

            for file in files:
                assert says(file, "HELO client.example.com") == "250"
            for file in files:
                assert [says(file, "MAIL FROM:<>") + says(file, "RSET") for _ in range(5)] == [
                    "250250"
                ] * 5
            minute = "smtpproxy:127.0.0.1/32", "minute"
            wait_until(lambda: redis.say("HGET", *minute).split()[2:3] == ["10"], 5, "ten told")
            # Who has been told of them all: at the latest once it has told of its own again.
            for file in files:
                last = [says(file, "MAIL FROM:<>")]
                if last == ["250"]:
                    wait_until(
                        lambda: int(redis.say("HGET", *minute).split()[2]) > 10, 5, "the next one"
                    )
                    says(file, "RSET")
                    last.append(says(file, "MAIL FROM:<>"))
                assert last[-1] == "421"


def test_without_redis_each_counts_for_itself(redis: Redis) -> None:
    """One line when that begins, one when it ends; nobody is refused or kept waiting for it."""
    limits = {"max_connections_per_address": 2}
    with (
        short_folder() as folder,
        Redis(folder) as other,
        proxies(1, shared=redis.unix, **limits) as (one,),
        proxies(1, shared=other.unix, **limits) as (two,),
    ):
        said(one, SHARED)
        said(two, SHARED)
        redis.hang()
        other.kill()
        for each in (one, two):
            with connected(each) as first, connected(each) as second, connected(each) as third:
                assert (first, second, third) == (GREETING, GREETING, FROM_YOU)
            said(each, ALONE)
            wait_until(partial(let_in, each), 5, "room again")
        redis.go_on()
        other.start()
        for each in (one, two):
            said(each, SHARED, 2)
            with connected(each), connected(each):
                assert not let_in(each)
            lines = [line for line in each.output.splitlines() if "limits are" in line]
            assert [ALONE in line for line in lines] == [False, True, False]


def test_a_process_that_was_killed_is_forgotten(redis: Redis) -> None:
    """Not by its own doing, so its sessions count until their time is over."""
    with proxies(2, max_connections_per_address=2, shared=redis.unix) as (one, two):
        said(two, SHARED)
        said(one, SHARED)
        with connected(one), connected(one):
            assert not let_in(two)
            os.kill(one.pid, signal.SIGKILL)
            key = "smtpproxy:127.0.0.1/32"
            assert not let_in(two)
            [entry] = [each for each in redis.say("HGETALL", key).split("\n") if each[-2:] == " 2"]
            until, now = float(entry.split()[0]), float(redis.say("TIME").split()[0])
            assert 0 < until - now <= 31
            # The clock of the server cannot be turned: what is there is made older.
            name = next(each for each in redis.say("HKEYS", key).split() if f"/{one.pid}/" in each)
            redis.say("HSET", key, name, f"{now - 1} 2")
            assert let_in(two)
            assert name not in redis.say("HKEYS", key)


class TestLogin(TestCase):
    """A server with a password and TLS."""

    def setUp(self) -> None:
        folder = self.enterContext(short_folder())
        authority = Authority(folder)
        self.authorities = str(authority.file)
        certificate = authority.certificate("localhost", "127.0.0.1")
        self.redis = self.enterContext(Redis(folder, "a secret", certificate))

    async def outcome(self, url: str, password: str = "", authorities: str = "") -> str:
        """Why it is not let in, "" where it is."""
        place = replace(parse_place(url), authorities=authorities)
        store = RedisStore(reactor, replace(place, password=password or place.password), "me")
        try:
            await store.open()
            await store.exchange([])
            [known] = await store.exchange([News("192.0.2.1/32", 1, (1, 2, 3))])
        except StoreFailed as error:
            return str(error)
        finally:
            store.close()
        assert (known.elsewhere, known.counts) == (0, (1, 2, 3))
        assert 59 < known.seconds <= 60
        self.redis.say("FLUSHALL")
        return ""

    async def test_ways_in(self) -> None:
        redis, more = self.redis, ("a secret", self.authorities)
        for host in ("127.0.0.1", "localhost"):
            self.assertEqual(await self.outcome(f"rediss://{host}:{redis.tls_port}/3", *more), "")
        self.assertEqual(await self.outcome(redis.unix, "a secret"), "")
        self.assertEqual(await self.outcome(f"redis://:a%20secret@127.0.0.1:{redis.port}"), "")
        redis.say("ACL", "SETUSER", "proxy", "on", ">hers", "+@all", "~*")
        self.assertEqual(await self.outcome(f"valkey://proxy:hers@127.0.0.1:{redis.port}"), "")

    async def test_no_ways_in(self) -> None:
        redis = self.redis
        tls = f"rediss://127.0.0.1:{redis.tls_port}"
        for url, words in [
            (f"redis://127.0.0.1:{redis.port}", "NOAUTH Authentication required."),
            (f"redis://:wrong@127.0.0.1:{redis.port}/1", "could not auth: WRONGPASS"),
            (f"redis://:a%20secret@127.0.0.1:{redis.port}/99", "could not set dbid=99"),
            (f"{tls}/1", "TLS fails: certificate verify failed"),
            (tls, "TLS fails: certificate verify failed"),
            (f"redis://:x@127.0.0.1:{redis.tls_port}", "could not auth: Lost connection"),
            (f"redis://127.0.0.1:{free_port()}", "Connection refused"),
            ("unix:/nowhere/redis.sock", "No such file"),
        ]:
            said = await self.outcome(url)
            self.assertIn(words, said)
            self.assertNotIn("secret", said)

    async def test_the_certificate_is_for_another(self) -> None:
        url = f"rediss://127.0.0.2:{self.redis.tls_port}"
        self.redis.say("CONFIG", "SET", "bind", "127.0.0.1 127.0.0.2")
        said = await self.outcome(url, "a secret", self.authorities)
        self.assertEqual(said, "TLS fails: the certificate is for another host")


def test_settings_of_a_proxy_that_logs_in(folder: Path, authority: Authority) -> None:
    """What is wrong is logged without the password."""
    certificate = authority.certificate("localhost", "127.0.0.1")
    (folder / "password").write_text("a secret\n")
    with Redis(folder, "a secret", certificate) as redis:
        url = f"rediss://127.0.0.1:{redis.tls_port}/3"
        limits = {"shared": url, "shared_password_file": str(folder / "password")}
        with proxies(1, **limits, shared_tls_ca=str(authority.file)) as (one,):
            said(one, f"{SHARED} {url}")
            one.configure(limits={"shared": f"redis://:wrong@127.0.0.1:{redis.port}/1"})
            os.kill(one.pid, signal.SIGHUP)
            said(one, f"{ALONE}, redis://127.0.0.1:{redis.port}/1: could not auth: WRONGPASS")
            assert "secret" not in one.output and ":wrong" not in one.output


def test_a_reload_begins_and_ends_it(redis: Redis) -> None:
    def connections(count: int) -> bool:
        return len(redis.say("CLIENT", "LIST").split("\n")) == 1 + count  # with who asks

    with proxies(1) as (one,):
        for count, shared in enumerate([redis.unix, ""], 1):
            one.configure(limits={"exempt": [], "shared": shared})
            os.kill(one.pid, signal.SIGHUP)
            said(one, "changed: limits.shared", count)
            wait_until(partial(connections, int(bool(shared))), 5, "the connection")
            assert let_in(one)
        assert ALONE not in one.output
