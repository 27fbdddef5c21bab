"""What can be typed behind `smtpproxy`.

Nothing is imported here that takes time: the help comes at once.
"""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from smtpproxy import __version__

TIMEOUT = 30.0  # seconds
MOST = 50  # rows


def command_line() -> ArgumentParser:
    """The parser, with a sub-parser for each command."""
    parser = _described(
        ArgumentParser,
        prog="smtpproxy",
        description="The administrator's command of smtpproxy, a transparent, recipient-routed MX "
        "proxy.\nThe proxy itself is started with: twistd -n --pidfile= smtpproxy --config FILE",
        epilog="`smtpproxy COMMAND --help` says more about each command.",
    )
    parser.add_argument("--version", action="version", version=f"smtpproxy {__version__}")
    _add_config(parser, None)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for add in (_check, _lookup, _probe, _diff, _reload, _shadows, _upstream, _upstreams):
        add(commands)
    for add in (_status, _tail, _metrics, _demo):
        add(commands)
    return parser


def _check(commands: Any) -> None:
    check = _described(
        commands.add_parser,
        "check",
        help="is the configuration right? also certificates, mappings and databases",
        description="Reads the configuration, the certificates and the mappings, asks each "
        "database, and starts\nnothing. With a FILE, reads that one CSV file, and needs no "
        "configuration. All faults are\nprinted at once, each with its place and what would be "
        "right.",
        epilog="exit status: 0 all is right, 1 something is wrong, 2 wrong use\n\n"
        "examples:\n"
        "  smtpproxy check\n"
        "  smtpproxy check --config ./smtpproxy.toml && systemctl restart smtpproxy\n"
        "  smtpproxy check mapping.csv.new && mv mapping.csv.new mapping.csv",
    )
    check.add_argument("file", metavar="FILE", nargs="?", type=Path, help="a CSV file")
    check.add_argument(
        "--regex", action="store_true", help="FILE is that of a regex mapping: it has expressions"
    )
    _add_config(check)


def _lookup(commands: Any) -> None:
    lookup = _described(
        commands.add_parser,
        "lookup",
        help="which server gets the mail of a recipient, and why",
        description="Asks the running program, or the mappings themselves, as the proxy would: "
        "each key tried in\neach mapping, the row and line that matched, and the server. No mail "
        "server is connected to.",
        epilog="exit status: 0 found, 1 no route, 2 error\n\n"
        "examples:\n"
        "  smtpproxy lookup alice+news@example.com\n"
        "  smtpproxy lookup postmaster\n"
        "  smtpproxy lookup --json alice@example.com | jq -r .route.servers[]",
    )
    lookup.add_argument(
        "address", metavar="ADDRESS", help="a recipient: user@example.com, or postmaster"
    )
    lookup.add_argument("--json", action="store_true", help="print one JSON object")
    lookup.add_argument(
        "--offline",
        action="store_true",
        help="ask the files and databases, not the running program",
    )
    _add_config(lookup)


def _probe(commands: Any) -> None:
    probe = _described(
        commands.add_parser,
        "probe",
        help="would a server take mail from this proxy? connects to it",
        description="Connects to each address of a server as the proxy would, up to but not "
        "including MAIL:\ngreeting, extensions, TLS, certificate and whether it verifies, XCLIENT; "
        "then what the\nproxy would do. No mail is sent.",
        epilog="exit status: 0 all would take mail, 1 one of them would not, 2 error\n\n"
        "examples:\n"
        "  smtpproxy probe                        every server that the mappings list\n"
        "  smtpproxy probe alice@example.com      the server that the mappings choose\n"
        "  smtpproxy probe mx1.example.net:2525   this server\n"
        "  smtpproxy probe --client 192.0.2.7 --helo mail.example.org mx1.example.net",
    )
    probe.add_argument(
        "target",
        metavar="SERVER|ADDRESS",
        nargs="?",
        help="host, host:port, [IPv6] or [IPv6]:port, unix:/path, lmtp:host, lmtp:unix:/path, "
        "mx:domain, several with commas; or a recipient (without: every server that the mappings "
        "list)",
    )
    probe.add_argument(
        "--no-verify",
        action="store_true",
        help="with a SERVER: its certificate need not verify, as with tls_verify = false",
    )
    probe.add_argument(
        "--tls",
        choices=("none", "may", "encrypt", "verify"),
        help="with a SERVER: as the column tls",
    )
    probe.add_argument(
        "--identity",
        choices=("auto", "xclient", "proxy1", "proxy2", "received", "none"),
        help="with a SERVER: as the column identity",
    )
    probe.add_argument(
        "--client",
        metavar="IP",
        type=_ip,
        help="introduce this client, by XCLIENT or PROXY (default: this host's own address)",
    )
    probe.add_argument(
        "--helo",
        metavar="NAME",
        type=_helo,
        help="the name of that client in EHLO (default: the domain of the configuration)",
    )
    probe.add_argument(
        "--timeout",
        metavar="TIME",
        type=_seconds,
        default=TIMEOUT,
        help="what one address may take in all, as 10 or 10s or 2m (default: 30s; the proxy itself "
        "waits as its [timeouts] say)",
    )
    _add_config(probe)


def _diff(commands: Any) -> None:
    diff = _described(
        commands.add_parser,
        "diff",
        help="what would a new CSV file change?",
        description="Compares two CSV files: how many rows are added, removed and moved, then the "
        "rows. What is\nmoved has another upstream, or other ways to it. It needs no "
        "configuration.",
        epilog="exit status: 0 both say the same, 1 they do not, 2 error\n\n"
        "examples:\n"
        "  smtpproxy diff mapping.csv mapping.csv.new\n"
        "  smtpproxy diff --most 1000 mapping.csv mapping.csv.new | less",
    )
    diff.add_argument("old", metavar="OLD.csv", type=Path, help="the file that is in force")
    diff.add_argument("new", metavar="NEW.csv", type=Path, help="the file that is to be")
    diff.add_argument(
        "--most",
        metavar="NUMBER",
        type=_count,
        default=MOST,
        help=f"the most rows to print of each kind (default: {MOST})",
    )


def _reload(commands: Any) -> None:
    reload = _described(
        commands.add_parser,
        "reload",
        help="have the running program read everything anew",
        description="Has the running program read everything anew: its configuration, the files of "
        "all mappings and\nall certificates, and forget what databases said. All of it is taken, "
        "or nothing is; what\nbecame of it is printed. It needs the setting control.",
        epilog="exit status: 0 all is in force, 1 nothing has changed, 2 nobody could be asked\n\n"
        "examples:\n"
        "  smtpproxy reload\n"
        "  smtpproxy reload --force",
    )
    reload.add_argument(
        "--force",
        action="store_true",
        help="take a file too that drops more rows than max_shrink allows",
    )
    _add_config(reload)


def _shadows(commands: Any) -> None:
    shadows = _described(
        commands.add_parser,
        "shadows",
        help="how often shadow servers differed from the real ones",
        description="Asks the running program how many recipients each shadow was asked of since "
        "the start, and for how\nmany its answer was another one. It needs the setting control.",
        epilog="exit status: 0 none differed, 1 some did, 2 nobody could be asked\n\n"
        "examples:\n"
        "  smtpproxy shadows",
    )
    _add_config(shadows)


def _upstream(commands: Any) -> None:
    upstream = _described(
        commands.add_parser,
        "upstream",
        help="have a server drain, or in maintenance, and enable it again",
        description="Tells the running program to send no more mail to a server, or to an "
        "upstream of several, and\nto send it again. It is forgotten when the program ends. It "
        "needs the setting control.\n\n"
        "  drain        no new connections; sessions that have one go on with it to their end\n"
        "  maintenance  no new messages either; those in hand go on to their end\n"
        "  enable       as before",
        epilog="exit status: 0 done, 1 done, but no upstream that is known has that name, 2 nobody "
        "could be asked\n\n"
        "examples:\n"
        "  smtpproxy upstream drain mx1.example.net\n"
        "  smtpproxy upstream maintenance mx1.example.net:2525\n"
        "  smtpproxy upstream enable mx1.example.net",
    )
    upstream.add_argument("action", metavar="ACTION", choices=("drain", "maintenance", "enable"))
    upstream.add_argument(
        "name",
        metavar="NAME",
        help="a server as rows have it (host, host:port, [IPv6]:port, unix:/path, lmtp:…, "
        "mx:domain) or all servers of an upstream, with commas",
    )
    _add_config(upstream)


def _upstreams(commands: Any) -> None:
    upstreams = _described(
        commands.add_parser,
        "upstreams",
        help="what upstreams offer, and what listeners announce for them",
        description="Asks the running program how each upstream does: its connections, and which "
        "of its addresses\nfail; what it offers, by address, and how long ago it was heard; then "
        "what each listener\nannounces in EHLO, and why not the rest. It needs the setting "
        "control.",
        epilog="exit status: 0 all were heard and none is down, 1 one was not or is, 2 nobody "
        "could be asked\n\n"
        "examples:\n"
        "  smtpproxy upstreams\n"
        "  smtpproxy upstreams --json | jq .listeners[].withholds",
    )
    upstreams.add_argument("--json", action="store_true", help="print one JSON object")
    _add_config(upstreams)


def _status(commands: Any) -> None:
    status = _described(
        commands.add_parser,
        "status",
        help="how the running program does: rates, upstreams, sessions, last refusals",
        description="Asks the running program what its status page shows, too: the rates of the "
        "last hour, a bar for\neach minute; how upstreams do; mappings; the sessions that are "
        "under way, the oldest first; and\nthe last refusals. It needs the setting control.",
        epilog="exit status: 0 clients are let in and no upstream is down, 1 they are not or one "
        "is, 2 nobody could\nbe asked\n\n"
        "examples:\n"
        "  smtpproxy status\n"
        "  smtpproxy status --json | jq .sessions.count",
    )
    status.add_argument("--json", action="store_true", help="print one JSON object")
    _add_config(status)


def _tail(commands: Any) -> None:
    tail = _described(
        commands.add_parser,
        "tail",
        help="look on at sessions: what both sides say, while they say it",
        description="Prints the dialogues of sessions as they go on: what the client says (C) and "
        "is told (S), and what\nwe say to the upstream (P) and it says (U). Content is never "
        "shown, and passwords neither. Who reads\nslowly misses lines, and slows no mail. It "
        "needs the setting control.\n\n"
        "With several of the options, a session has to fit all of them. It is shown from its "
        "beginning on\nonce it does, to its end.",
        epilog="exit status: 0 the program has stopped, 1 it has, and lines were lost, 2 nobody "
        "could be asked;\nCtrl-C ends it with 130\n\n"
        "examples:\n"
        "  smtpproxy tail --client 192.0.2.0/24\n"
        "  smtpproxy tail --recipient '*@example.com' --redact\n"
        "  smtpproxy tail --upstream mx1.example.net --json",
    )
    tail.add_argument(
        "--client",
        metavar="NET",
        help="those of these clients: 192.0.2.7, 2001:db8::/32, unix; several with commas",
    )
    tail.add_argument(
        "--recipient",
        metavar="PATTERN",
        help="those that name such a recipient: alice@example.com, or with * and ?",
    )
    tail.add_argument(
        "--upstream",
        metavar="NAME",
        help="those that speak to this server, or upstream, as in `smtpproxy upstream`",
    )
    tail.add_argument(
        "--redact", action="store_true", help="leave out the local parts of mail addresses"
    )
    tail.add_argument("--json", action="store_true", help="print a JSON object for each line")
    _add_config(tail)


def _metrics(commands: Any) -> None:
    metrics = _described(
        commands.add_parser,
        "metrics",
        help="what the running program has counted, as Prometheus reads it",
        description="Asks the running program for all that it counts and measures, and prints it "
        "as the text that\nPrometheus reads, for node_exporter's textfile collector, say. It needs "
        "the setting control.",
        epilog="exit status: 0 printed, 1 printed, but a worker did not answer, 2 nobody could be "
        "asked\n\n"
        "examples:\n"
        "  smtpproxy metrics\n"
        "  smtpproxy metrics | grep ^smtpproxy_transactions_total",
    )
    _add_config(metrics)


def _demo(commands: Any) -> None:
    demo = _described(
        commands.add_parser,
        "demo",
        help="six mails through a proxy to two small servers, on loopback",
        description="Starts two small mail servers and a proxy before them, on free ports of the "
        "loopback\naddress, sends six mails, and prints what came of each, and the log. It needs "
        "no\nconfiguration, and leaves nothing behind.",
        epilog="exit status: 0 all came out as it should, 1 something did not, 2 wrong use\n\n"
        "examples:\n"
        "  smtpproxy demo\n"
        "  smtpproxy demo --keep",
    )
    demo.add_argument(
        "--keep", action="store_true", help="stay up until Ctrl-C, and say how to talk to it"
    )


def _described(make: Any, *names: str, **texts: str) -> ArgumentParser:
    parser: ArgumentParser = make(
        *names, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False, **texts
    )
    return parser


def _add_config(parser: ArgumentParser, default: Any = SUPPRESS) -> None:
    """The option may stand before the command or behind it."""
    parser.add_argument(
        "-c",
        "--config",
        metavar="FILE",
        default=default,
        help="the configuration (default: $SMTPPROXY_CONFIG, else /etc/smtpproxy/smtpproxy.toml)",
    )


def _ip(text: str) -> str:
    try:
        return str(ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no IP address: give 192.0.2.7, 2001:db8::7") from None


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise ArgumentTypeError(f"{text!r} is no number of rows: give 50, or 0 for none")
    return int(text)


def _helo(text: str) -> str:
    if not text.isascii() or not text.isprintable() or not text or " " in text or len(text) > 255:
        raise ArgumentTypeError(f"{text!r} is no name for EHLO: give mail.example.org, [192.0.2.7]")
    return text


def _seconds(text: str) -> float:
    from smtpproxy.config.values import parse_duration  # slow to load, and seldom asked for

    try:
        return parse_duration(f"{text}s" if text.isdigit() else text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None
