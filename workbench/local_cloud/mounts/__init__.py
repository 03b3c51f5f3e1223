"""Mounts (local files that containers see) and blobs (large values that are sent over HTTP)."""
