"""A project's committed files and their history."""
