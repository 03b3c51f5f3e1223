"""Programs that run inside of sandboxes, beside hostile jobs. Each is one file and uses the standard library only."""
