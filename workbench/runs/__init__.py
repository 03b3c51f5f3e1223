"""Runs as engineers hold them: launched, followed, read from archives, compared, played and executed again."""
