"""Things that make runs fail on purpose, to show what happens then."""
