"""`smtpproxy`, the administrator's command.

`arguments` holds what can be typed; each sub-command is a module of its name with a function
`run`, and is loaded only when it is asked for.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from smtpproxy.cli.arguments import command_line
from smtpproxy.cli.wording import complain
from smtpproxy.faults import Faults

ERROR = 2  # also what argparse exits with
INTERRUPTED = 130  # as a shell says it of SIGINT


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what `arguments` (default: those of the process) ask for; gives the exit status.

    A fault of ours is an error too: never 1, which is an answer.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not every terminal can show every address
            stream.reconfigure(errors="backslashreplace")
    parser = command_line()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help(sys.stderr)
        return ERROR
    try:
        status: int = import_module(f"smtpproxy.cli.{options.command}").run(options)
        sys.stdout.flush()
    except Faults as error:
        for fault in error.faults:
            complain(str(fault))
        return ERROR
    except BrokenPipeError:  # nobody reads on, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception:
        traceback.print_exc()
        return ERROR
    return status
