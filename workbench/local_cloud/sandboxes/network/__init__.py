"""A sandbox's network: the egress proxy and access to web functions, tunnels and connect tokens."""
