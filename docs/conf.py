"""How Sphinx makes a site and manual pages of these files: `make docs`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from release.tarball import source_date_epoch  # noqa: E402  only now it can be found
from smtpproxy import __version__  # noqa: E402

# The date of the manual pages is that of what they are made of.
os.environ["SOURCE_DATE_EPOCH"] = str(source_date_epoch())

project = "smtpproxy"
author = "the smtpproxy developers"
project_copyright = author
version = release = __version__

extensions = ["myst_parser", "manpages"]
# The pages man-*.md are manual pages alone.
exclude_patterns = [] if tags.has("man") else ["man-*.md"]  # type: ignore[name-defined]  # noqa: F821
nitpicky = True
# Terms and what they mean, as in the manual pages.
myst_enable_extensions = ["deflist"]
# Deep enough for every heading that a page points at, and named as GitHub names them.
myst_heading_anchors = 4
# "…" and quotes stay as they were typed: they are in what one copies.
smartquotes = False
highlight_language = "none"

html_theme = "furo"
html_title = f"smtpproxy {release}"
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_static_path: list[str] = []

man_pages = [
    ("man-command", "smtpproxy", "the administrator's command of a mail proxy", "", 1),
    ("man-daemon", "smtpproxy", "a transparent, recipient-routed MX proxy", "", 8),
    ("man-settings", "smtpproxy.toml", "the configuration of smtpproxy", "", 5),
    ("man-mapping", "smtpproxy-mapping", "which server gets whose mail", "", 5),
    ("man-failures", "smtpproxy-failures", "what clients are told, and what to do", "", 7),
    ("man-logs", "smtpproxy-logs", "what smtpproxy writes into its log", "", 7),
]
man_show_urls = True
