"""Everything at once, for as long as wanted: `python -m soak`, or `make soak`.

    run         one run, from the start of the first server to the end of the last
    contents    messages, each of which can be made again from its number
    plans       what a client does in a session, by lot
    conversation, wire     a client that keeps to its plan, also where it is to leave in the middle
    hostile     clients that do not mean well
    crowd       all of them, in threads
    server, serving        an upstream of our own, which checks what it is told: a program
    upstreams, mailboxes   the upstreams as a whole: started, killed, frozen, emptied
    proxied     the proxy, and the rows that say who gets whose mail
    chaos       what happens to all of these meanwhile
    samples     memory and descriptors of the proxy
    ledger      who was told what of which message, and where it lies
    journal     what the logs say
    report      the table

The load goes through a really running proxy to a real Postfix, a real Exim and servers of our own.
What counts is the ledger: a message that got a 250 is in exactly one mailbox, byte for byte, and
one that got none is in none, unless the proxy has logged it as in doubt.
"""
