"""An engine, a workspace and a sandbox for each test."""

from tests.support.sandboxes import engine, root, sandbox, without_overlay, workspace

__all__ = ["engine", "root", "sandbox", "without_overlay", "workspace"]
