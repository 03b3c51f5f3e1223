"""Durable state of the local cloud: one SQLite file and a directory of content-addressed files."""
