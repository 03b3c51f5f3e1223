"""Volumes: their committed state, and the private working copies of it that sandboxes and containers mount."""
