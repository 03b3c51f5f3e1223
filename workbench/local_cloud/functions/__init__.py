"""Function containers: the SDK's own entrypoint, its inputs and outputs, and the bridge from HTTP."""
