"""A project's sandbox: created, proved alive, used, committed and ended."""
