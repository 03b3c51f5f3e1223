"""What a person does with the application's page."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

LONG = 60_000  # milliseconds
LINES = 12
WORDS = "".join(f"line {number} \u2028 é\n" for number in range(LINES))


def counting(pause_s: float = 0.15) -> str:
    """A program that takes a while to print WORDS."""
    return f"import time\nfor i in range({LINES}):\n  print('line', i, '\\u2028 é', flush=True); time.sleep({pause_s})"


ENDLESS = "import time\nprint('on', flush=True)\ntime.sleep(600)"


class Pane:
    """One pane of a page: a prompt and its run."""

    def __init__(self, page: Page, name: str = "main") -> None:
        self.page = page
        self.root: Locator = page.get_by_role("region", name=name, exact=True)

    def fill(self, code: str) -> None:
        """Write a program, and do not start it."""
        self.root.get_by_label("action").select_option("python")
        self.root.get_by_label("prompt").fill(code)

    def start(self, code: str) -> None:
        """Write a program and start it."""
        self.fill(code)
        self.root.get_by_role("button", name="Run", exact=True).click()

    def press(self, name: str) -> None:
        """Press a button."""
        self.root.get_by_role("button", name=name, exact=True).click()

    def wait_for(self, phase: str) -> None:
        """Return when the run is in a phase."""
        expect(self.root.get_by_label("phase")).to_have_text(phase, timeout=LONG)

    def wait_for_text(self, text: str) -> None:
        """Return when a text is shown."""
        expect(self.root.get_by_label("parts")).to_contain_text(text, timeout=LONG)

    @property
    def text(self) -> str:
        """What the job has printed."""
        return "".join(self.root.locator("[data-kind=stdout]").all_text_contents())

    @property
    def numbers(self) -> list[int]:
        """The numbers of the events that the page has."""
        value = self.root.get_by_label("numbers").get_attribute("value") or ""
        return [int(number) for number in value.split()]

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.root.get_by_label("run id").get_attribute("value") or ""

    @property
    def problem(self) -> str:
        """What the page says is wrong."""
        return self.root.get_by_role("alert").first.inner_text()

    def check_whole(self) -> None:
        """The run of `counting` is shown to its end, with every event once."""
        self.wait_for("done")
        assert self.text == WORDS
        numbers = self.numbers
        assert numbers == list(range(1, len(numbers) + 1))


@contextmanager
def user(browser: Browser) -> Iterator[BrowserContext]:
    """A browser of somebody who has not been here before; what goes wrong in its pages fails the test."""
    problems: list[str] = []
    context = browser.new_context()
    context.on("page", lambda page: page.on("pageerror", lambda error: problems.append(str(error))))
    yield context
    context.close()
    assert [problem for problem in problems if not re.search("abort|Failed to fetch|Load failed", problem)] == []


def opened(context: BrowserContext, url: str, pane: str = "main") -> Pane:
    """A new tab with the application."""
    page = context.new_page()
    page.goto(url)
    return Pane(page, pane)
