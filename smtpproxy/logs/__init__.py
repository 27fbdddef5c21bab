"""Lines for the administrator: Postfix's shape or flat JSON, a session id on each.

    events  ->  Log  ->  a shape (text, json_lines)  ->  Writer  ->  file or standard output

A shape makes whole lines of an event; `escape` keeps what peers sent from forging one.
"""

from smtpproxy.logs.levels import Level
from smtpproxy.logs.log import Log, TwistedLog, open_log
from smtpproxy.logs.writer import Writer

__all__ = ["Level", "Log", "TwistedLog", "Writer", "open_log"]
