"""Images: what a chain of mini Dockerfiles means on this machine, and the directories that are built from it."""
