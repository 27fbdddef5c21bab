"""What can be typed behind `smtpproxy`.

Nothing is imported here that takes time: the help comes at once.
"""

from __future__ import annotations

from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from ipaddress import ip_address
from typing import Any

from smtpproxy import __version__

TIMEOUT = 30.0  # seconds


def command_line() -> ArgumentParser:
    """The parser, with a sub-parser for each command."""
    parser = _described(
        ArgumentParser,
        prog="smtpproxy",
        description="The administrator's command of smtpproxy, a transparent, recipient-routed MX "
        "proxy.\nThe proxy itself is started with: twistd -n smtpproxy --config FILE",
        epilog="`smtpproxy COMMAND --help` says more about each command.",
    )
    parser.add_argument("--version", action="version", version=f"smtpproxy {__version__}")
    _add_config(parser, None)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for add in (_check, _lookup, _probe, _demo):
        add(commands)
    return parser


def _check(commands: Any) -> None:
    check = _described(
        commands.add_parser,
        "check",
        help="is the configuration right? also certificates and mappings",
        description="Reads the configuration, the certificates and the mappings, and starts "
        "nothing.\nAll faults are printed at once, each with its place and what would be right.",
        epilog="exit status: 0 all is right, 1 something is wrong, 2 wrong use\n\n"
        "examples:\n"
        "  smtpproxy check\n"
        "  smtpproxy check --config ./smtpproxy.toml && systemctl restart smtpproxy",
    )
    _add_config(check)


def _lookup(commands: Any) -> None:
    lookup = _described(
        commands.add_parser,
        "lookup",
        help="which server gets the mail of a recipient, and why",
        description="Asks the mappings as the proxy would: each key tried in each mapping, the "
        "row and line\nthat matched, and the server. Nothing is connected to.",
        epilog="exit status: 0 found, 1 no route, 2 error\n\n"
        "examples:\n"
        "  smtpproxy lookup alice+news@example.com\n"
        "  smtpproxy lookup postmaster\n"
        "  smtpproxy lookup --json alice@example.com | jq .route.host",
    )
    lookup.add_argument(
        "address", metavar="ADDRESS", help="a recipient: user@example.com, or postmaster"
    )
    lookup.add_argument("--json", action="store_true", help="print one JSON object")
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
        help="host, host:port, [IPv6] or [IPv6]:port; or a recipient (without: every server that "
        "the mappings list)",
    )
    probe.add_argument(
        "--no-verify",
        action="store_true",
        help="with a SERVER: its certificate need not verify, as with tls_verify = false",
    )
    probe.add_argument(
        "--client",
        metavar="IP",
        type=_ip,
        help="introduce this client by XCLIENT (default: this host's own address)",
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
