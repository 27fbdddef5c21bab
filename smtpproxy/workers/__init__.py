"""Several processes for one configuration: a parent that binds, and workers that serve.

The parent has the sockets, the signals and the control socket; each worker is a program of its
own with a reactor of its own, and accepts from the same sockets.  `Supervisor` is the parent's
service, `worker` the program of a worker, and `channel` what the two say to each other.
"""

from smtpproxy.workers.share import number_of, share_of, workers_stay
from smtpproxy.workers.supervisor import Supervisor

__all__ = ["Supervisor", "number_of", "share_of", "workers_stay"]
