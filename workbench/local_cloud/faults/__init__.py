"""Faults on request: which call fails, for whom, when and how."""
