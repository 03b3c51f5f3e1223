"""The local cloud's own controls: faults, clock, and the RPCs that it has."""
