"""What a sandbox may use, and who sees to it: control groups, a watchdog, the disk."""
