"""The engine: makes sandboxes of bubblewrap and an agent, and starts, connects and ends their programs."""
