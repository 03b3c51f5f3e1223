"""Writes what is made of the documentation: the reference pages and the pictures."""

from tests.support.docs import made

if __name__ == "__main__":
    for path, text in made.files().items():
        path.write_text(text)
