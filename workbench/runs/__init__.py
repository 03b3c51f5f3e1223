"""Runs, from the client's side: launch and follow them, read archives, compare, play back, replay."""
