"""`python -m smtpproxy` is the same as `smtpproxy`."""

from __future__ import annotations

import sys

from smtpproxy.cli import main

if __name__ == "__main__":
    sys.exit(main())
