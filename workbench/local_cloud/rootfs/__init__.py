"""Root file systems of images: layers on overlayfs, mounted in a user namespace with a range of ids of its own."""
