"""The same page for all tests here."""

from tests.standard.browser.conftest import _desk, browser, desk, lab

__all__ = ["_desk", "browser", "desk", "lab"]
