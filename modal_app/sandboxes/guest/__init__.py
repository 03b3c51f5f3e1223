"""Programs that run inside sandboxes, as `python3 -I -c`. Each is one file and uses the standard library only."""
