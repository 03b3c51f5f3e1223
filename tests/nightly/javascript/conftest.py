"""The scripts of the JavaScript SDK, with what they need."""

from tests.standard.javascript.conftest import scripts

__all__ = ["scripts"]
