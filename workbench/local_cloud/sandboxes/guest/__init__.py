"""Programs that run inside of sandboxes, beside hostile jobs: each one file, with the standard library only."""
