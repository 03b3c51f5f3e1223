"""The code of the documentation's page about Next.js compiles in an application, and its tables leave nothing out."""

import re

from modal_app.contract.errors import ErrorCode
from tests.support.docs import nextjs as page
from tests.support.nextjs import BESIDE, NODE, Application
from workbench.typescript import application as client

pytestmark = NODE


def test_the_code_of_the_page_compiles_in_an_application(application: Application) -> None:
    """It was compiled when the application was built: a second compiler would cost as much as all that is done here."""
    code = page.code()
    assert {"lib/runs.ts", "app/page.tsx", "script.ts", "app/api/runs/[runId]/route.ts"} <= code.keys()
    assert [name for name in code if f'"../../{BESIDE}/{name}"' not in application.compiled] == []


def test_every_code_has_its_row_and_every_file_too() -> None:
    text = page.PAGE.read_text()
    codes = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    assert sorted(codes) == sorted(str(code) for code in ErrorCode)
    files = client.shipped().keys()
    assert [name for name in files if f"`{name}`" not in text] == []
