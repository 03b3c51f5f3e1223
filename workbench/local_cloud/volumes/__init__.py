"""Volumes: committed state, and the private working copies that mounts are."""
