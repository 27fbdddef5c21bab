"""The HTTP listener: a page that shows how the program does, metrics, health checks.

listener   where it listens, which may change while the program runs
site       one connection: what is bounded, which headers every answer has
access     who may ask, and who may change something
paths      what there is at which path
page       whole pages; `live` the parts of one that change, `lookup` the answer to a look-up,
           `plots` the small pictures, `style` how it looks
"""
