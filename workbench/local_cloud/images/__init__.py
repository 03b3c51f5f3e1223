"""Images: reads the SDK's layers, each a short Dockerfile, and builds directories from them on this machine."""
