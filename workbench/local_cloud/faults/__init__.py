"""Fault injection: rules that say which call fails, for which app or sandbox, when and how."""
