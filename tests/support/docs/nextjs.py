"""The code of the documentation's page about Next.js."""

from tests.support.docs import pages
from tests.support.docs.made import DOCS

PAGE = DOCS / "nextjs.md"
# What stands in for an application's own sign-in.
_SESSION = """
const header = (request: Request, name: string): string | null => request.headers.get(name);
export const userOf = async (request: Request): Promise<string | null> => header(request, "x-user");
export const projectOf = async (user: string, request: Request) => header(request, "x-project") ?? user;
"""


def code() -> dict[str, str]:
    """The files that it has an application write: their paths and texts."""
    written = {block.tag: block.text for language in ("ts", "tsx") for block in pages.blocks(PAGE, language)}
    return {**written, "lib/session.ts": _SESSION}
