"""The ground of the local cloud: errors, clock, ids, ports, child processes. Imports nothing of the rooms above."""
