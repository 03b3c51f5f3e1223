"""Programs that run inside of sandboxes, as `python3 -I -c`: each one file, with the standard library only."""
