"""Sandboxes: their life from creation to end, their programs' input and output, mounts, limits and network."""
