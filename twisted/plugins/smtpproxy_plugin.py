from twisted.application.service import ServiceMaker

smtpproxy = ServiceMaker(
    "smtpproxy", "smtpproxy.service", "A transparent, recipient-routed MX proxy", "smtpproxy"
)
