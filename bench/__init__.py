"""What smtpproxy can do on this machine, in figures: `python -m bench`, or `make bench`.

Each measurement is repeated; the table has the median and the worst, and a file of JSON
beside it every value.  What is measured runs in processes of its own, so that no
measurement sees the memory or the threads of another.
"""
