"""The ways into a sandbox and out of it: proxy, tunnels, connect tokens."""
