"""The workspace: the SDK's handshake, environments, and proxy tokens for guarded web functions."""
