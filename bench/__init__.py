"""What smtpproxy can do on this machine, beside other proxies: `python -m bench`, or `make bench`.

    workloads   what is measured
    rivals      the proxies, and `variants`: smtpproxy in several set-ups
    measure     rounds of a workload, each rival in turn
    clients     the loads: `load`, our own, and Postfix's smtp-source
    upstreams   the sinks: `sink`, our own, smtp-sink, and a real Postfix
    idle        what a session costs beside time
    loading, databases, reloading      mappings
    goals, report, plot                what comes of it

All that is measured runs in processes of its own, so that no measurement sees the memory or the
threads of another.  Each message of our own load has a number and a checksum (`marks`): the
benchmark fails where one is lost or damaged, and never because of a time.
"""
