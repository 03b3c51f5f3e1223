"""Isolated processes: bubblewrap, the agent that is pid 1 inside, and what the host keeps of their output."""
