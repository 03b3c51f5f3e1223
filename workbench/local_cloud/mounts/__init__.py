"""Local files that containers see, and large values that travel by link."""
