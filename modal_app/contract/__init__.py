"""The words of `/generate`: requests, events, errors, limits, the order of events, SSE framing.

No I/O, no clock, no SDK. Both sides import it: the endpoint to speak, the workbench to listen.
"""
