"""One run's life: who owns it, what it says, how it ends."""
