"""Free ports on loopback."""

from __future__ import annotations

import random
import socket

# Below the range that the kernel takes ports from for outgoing connections (32768 and up,
# where port 0 would send us): a port found free here is not taken by a client of another
# test before the server that it is meant for has started.
_PORTS = range(12000, 32000)
_given: set[int] = set()


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nothing listens on at `host`, and that this process has not given before."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in random.sample(_PORTS, 200):
        if port in _given:
            continue
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise OSError(f"no free port on {host}")
