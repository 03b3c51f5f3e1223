"""A cloud on this machine that speaks Modal's own wire protocol, so that the unmodified SDK and CLI work against it.

It knows Modal and nothing of this project's endpoint or tools. `daemon` starts and finds it; `cloud` is what runs.
"""
