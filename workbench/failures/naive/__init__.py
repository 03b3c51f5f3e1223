"""The endpoint that everybody writes first, to be seen beside the hardened one when something fails."""
