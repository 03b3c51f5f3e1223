"""The cloud as a process: put together, started, found, looked after, and cleaned up behind."""
