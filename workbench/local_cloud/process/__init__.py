"""The cloud as a process: assembles its parts, starts and finds it, maintains its state, and cleans up after it."""
