"""smtpproxy: a transparent, recipient-routed MX proxy."""

__version__ = "0.1.0"
