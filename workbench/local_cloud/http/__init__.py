"""The HTTP side of the cloud: large values and volume blocks by signed links."""
