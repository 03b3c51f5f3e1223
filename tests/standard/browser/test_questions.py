"""What people ask of a run is answered in at most three clicks: those that the page `questions.md` tells."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from playwright.sync_api import Locator, expect

from tests.standard.browser.cells import PATIENCE_MS, aside
from tests.standard.browser.conftest import LONG, JupyterPages, picture
from tests.support.paths import ROOT
from workbench import Project, Workbench

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]
PAGE = ROOT / ".github" / "docs" / "questions.md"
MOST = 3
QUICK = "open('report.txt', 'w').write('first')"
SLOW = """import time
held = bytearray(b"x") * (120 << 20)
end = time.time() + 4
while time.time() < end: pass
open("report.txt", "w").write("second")"""
FAILING = """def parse(text):
    raise ValueError("no price in " + text)
print("begun")
parse("line 7")"""
STEPS = "import time\nfor step in range(4):\n    print(step, flush=True)\n    time.sleep(0.6)"


@dataclass(frozen=True)
class Told:
    """A row of the page: a question and the clicks that answer it."""

    question: str
    clicks: tuple[str, ...]


def told() -> list[Told]:
    rows = [line.strip("|").split("|") for line in PAGE.read_text().splitlines() if line.startswith("| ")][1:]
    return [Told(question.strip(), tuple(re.findall(r"\*([^*]+)\*", clicks))) for question, clicks, _ in rows]


@dataclass(frozen=True)
class Runs:
    """The ids of the runs that the questions are about."""

    quick: str
    slow: str
    failed: str


@pytest.fixture(scope="module")
def runs(wb: Workbench) -> Runs:
    def launch() -> Runs:
        project = Project.new()
        found = []
        for where, code in ((project, QUICK), (project, SLOW), (Project.new(), FAILING)):
            run = wb.launch(where, "python", code=code)
            run.wait()
            wb.runs.get(run.run_id, wait_s=30)
            found.append(run.run_id)
        return Runs(*found)

    return aside(launch)


@dataclass(frozen=True)
class Answer:
    """Which run a question is about, and what shows that its answer is to be seen."""

    about: str
    seen: Callable[[Locator, str], None]


def exception(whole: Locator, run: str) -> None:
    expect(whole.locator(f'tr[data-run="{run}"] .wb-why')).to_have_text("ValueError: no price in line 7")


def its_line(whole: Locator, run: str) -> None:
    line = whole.locator(".wb-runs .wb-run .wb-row[data-cursor]")
    expect(line).to_contain_text("ValueError: no price in line 7")
    expect(line).to_be_in_viewport(ratio=1)


def file(whole: Locator, run: str) -> None:
    expect(whole.get_by_role("table", name="Changed files")).to_contain_text("report.txt", timeout=PATIENCE_MS)


def step(whole: Locator, run: str) -> None:
    table = whole.get_by_role("table", name="timeline")
    expect(table).to_be_visible(timeout=PATIENCE_MS)
    before, after = table.locator("tr", has_text="running").first.locator(".wb-lasted").all_inner_texts()
    assert int(after.split()[0]) > 2 * int(before.split()[0])


def asked(whole: Locator, run: str) -> None:
    expect(whole.locator(".wb-runs .wb-asked")).to_contain_text("no price in")


def form(whole: Locator, run: str) -> None:
    field = whole.locator(".wb-launcher [data-field=code] textarea")
    expect(field).to_have_value(FAILING, timeout=PATIENCE_MS)


def proved(whole: Locator, run: str) -> None:
    expect(whole.locator(f'tr[data-run="{run}"]')).to_contain_text("✓ proved", timeout=PATIENCE_MS)


def late(whole: Locator, run: str) -> None:
    head = whole.locator(".wb-launcher .wb-run")
    expect(head.locator(".wb-badge", has_text=re.compile("came .* late"))).to_be_visible(timeout=PATIENCE_MS)
    expect(head.get_by_role("img", name="arrival lag: events came up to")).to_be_visible()


def memory(whole: Locator, run: str) -> None:
    row = whole.locator(".wb-runs .wb-run").get_by_role("img", name="memory: at most")
    expect(row).to_have_attribute("title", re.compile(r"at most 1[2-9]\d MiB"), timeout=PATIENCE_MS)


def most_often(whole: Locator, run: str) -> None:
    expect(whole.locator("tr.wb-group", has_text="ValueError: no price")).to_contain_text("1 run, 1 not done")


ANSWERS = {
    "Which exception was it?": Answer("failed", exception),
    "Where in the output does it say so?": Answer("failed", its_line),
    "Which file did it change?": Answer("slow", file),
    "Why did it take twice as long as the last time?": Answer("slow", step),
    "What was it asked?": Answer("failed", asked),
    "What if I change a word of it?": Answer("failed", form),
    "Is it true, what it says of its end?": Answer("slow", proved),
    "Was it slow, or was it held back on its way here?": Answer("", late),
    "How much memory did it take?": Answer("slow", memory),
    "What fails most often?": Answer("failed", most_often),
}


def click(whole: Locator, run: str, name: str) -> None:
    """One click: on a tab, on a choice, or on the button of this name, of the run if it has one."""
    if name.startswith("by "):
        whole.get_by_label("Group by").select_option(label=name)
        return
    tab = whole.get_by_role("tab", name=name, exact=True)
    if tab.count():
        tab.click()
        expect(whole.locator(f'tr[data-run="{run}"]')).to_be_visible(timeout=PATIENCE_MS)
        return
    exact = re.compile(rf"^(▸ |▾ )?{re.escape(name)}$")
    own = whole.locator(f'tr[data-run="{run}"] button').filter(has_text=exact)
    button = own if own.count() else whole.locator(".wb-runs .wb-run button").filter(has_text=exact)
    button.first.click(timeout=PATIENCE_MS)
    if name == "open":
        expect(whole.locator(".wb-runs .wb-run .wb-row").first).to_be_visible(timeout=PATIENCE_MS)


def test_the_page_asks_what_is_answered_here() -> None:
    assert [one.question for one in told()] == list(ANSWERS)
    assert all(len(one.clicks) <= MOST for one in told())


@pytest.mark.parametrize("asked_", told(), ids=lambda one: one.question)
def test_a_question_is_answered_by_the_clicks_that_are_told(
    desk: JupyterPages, wb: Workbench, runs: Runs, asked_: Told
) -> None:
    answer = ANSWERS[asked_.question]
    run = getattr(runs, answer.about) if answer.about else ""
    launched = f"""
rule = panel.workbench.faults.injected(at="web", app={wb.app_name!r}, buffer_bytes=1_000_000)
with rule:
    panel.part("launch").launch(workbench.Project.new(), "python", code={STEPS!r}).wait()
"""
    desk.page.set_viewport_size({"width": 1280, "height": 900})
    try:
        code = f"import workbench\npanel = workbench.open(app_name={wb.app_name!r}){launched if not run else ''}\npanel"
        whole = desk.show(code).locator(".wb-workbench")
        expect(whole.locator(".wb-launcher")).to_be_visible(timeout=LONG)
        for name in asked_.clicks:
            click(whole, run, name)
        answer.seen(whole, run)
        picture(whole, f"question-{list(ANSWERS).index(asked_.question) + 1}")
    finally:
        desk.page.set_viewport_size({"width": 1280, "height": 1600})
