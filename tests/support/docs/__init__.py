"""What the pages below `.github/docs` are made of and held against. `python -m tests.support.docs` writes them anew."""

AGAIN = "uv run python -m tests.support.docs"
