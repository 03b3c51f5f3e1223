"""One endpoint for the jobs of Claude."""

from tests.standard.claude.endpoint.conftest import claude

__all__ = ["claude"]
