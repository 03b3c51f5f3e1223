"""The local cloud's durable state: one SQLite file and a directory of content-addressed files."""
