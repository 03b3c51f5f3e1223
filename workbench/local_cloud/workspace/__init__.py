"""The account: the SDK's handshake, environments, and the tokens of guarded web functions."""
