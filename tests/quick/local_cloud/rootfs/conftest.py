"""A store of layers for the session; an engine, roots and a sandbox for each test."""

from tests.support.rooted import base, engine, image, layers, open_root, root, rooted, store, workspace

__all__ = ["base", "engine", "image", "layers", "open_root", "root", "rooted", "store", "workspace"]
