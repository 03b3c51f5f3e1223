"""Failures on purpose."""
