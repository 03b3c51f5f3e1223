"""The contract of `/generate`: requests, events, errors, limits, the order of events, SSE framing.

No I/O, no clock, no SDK. Both sides import it: the endpoint to read requests and write events, the workbench to write
requests and read events.
"""
