"""What a client said, as lines for who listens to its session."""

from __future__ import annotations

from smtpproxy.smtp.commands import Introduction, Verb
from smtpproxy.smtp.server import Content, EndOfChunk, EndOfContent, Event, Refusal
from smtpproxy.tap import content_line, lines_of


def heard(event: Event) -> tuple[bytes, ...]:
    """The lines of a command, or how much content there was; () where there is nothing to show.

    What is no command is not shown: it may be a password, or content that went astray.
    """
    match event:
        case Content() | EndOfChunk():
            return ()
        case EndOfContent(size):
            return content_line(size)
        case Refusal(verb, _, said):
            if not isinstance(said, bytes):
                return heard(said)
            return lines_of(said) if verb in Verb.__members__ else (b"<no command>",)
        case Introduction(verb, attributes):
            if event.flaw is not None:
                return (f"{verb.value} <not understood>".encode(),)
            words = (f"{name}={value or '[UNAVAILABLE]'}" for name, value in attributes.items())
            return (" ".join((verb.value, *words)).encode("utf-8", "backslashreplace"),)
        case _:
            return lines_of(event.encode())
