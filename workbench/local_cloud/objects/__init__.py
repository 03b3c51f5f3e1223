"""Dicts, queues and secrets."""
