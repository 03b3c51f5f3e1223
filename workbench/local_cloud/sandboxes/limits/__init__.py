"""Limits of sandboxes, and what enforces them: control groups, a watchdog, the disk reserve."""
