"""The local cloud's own controls: fault injection, the clock, and the list of RPCs that it implements."""
