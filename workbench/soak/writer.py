"""A program that writes to a volume through the stock SDK, by uploads and from a sandbox, until it is killed.

`python -m workbench.soak.writer VOLUME SEED`. It reads one line of JSON, the variables that point the SDK at a cloud.
Before each write it prints `{"how": …, "files": {path: sha256}}`, and `{"done": true}` when the write is acknowledged.
"""

import hashlib
import io
import json
import os
import random
import sys

PATHS = 20  # so few that most writes replace a file
PER_COMMIT = 5
MAX_BYTES = 50_000
_IN_SANDBOX = """
import json, pathlib, sys
for path, text in json.load(sys.stdin).items():
    target = pathlib.Path("/v", path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
"""


def main() -> None:
    """Write, and print what is written, until killed."""
    os.environ.update(json.loads(sys.stdin.readline()))
    import modal  # after the variables that it reads when it is imported

    name, seed = sys.argv[1:]
    chance = random.Random(seed)  # noqa: S311  # to be repeated, not to be secret
    volume = modal.Volume.from_name(name, create_if_missing=True, version=2)
    app = modal.App.lookup("soak", create_if_missing=True)
    sandbox = modal.Sandbox.create(app=app, timeout=600, volumes={"/v": volume}, image=modal.Image.debian_slim())
    while True:
        texts = {_path(chance): f"{chance.random()}" * chance.randint(1, MAX_BYTES // 20) for _ in range(PER_COMMIT)}
        how = chance.choice(("upload", "sandbox"))
        _tell({"how": how, "files": {path: hashlib.sha256(text.encode()).hexdigest() for path, text in texts.items()}})
        if how == "upload":
            with volume.batch_upload(force=True) as batch:
                for path, text in texts.items():
                    batch.put_file(io.BytesIO(text.encode()), path)
        else:
            process = sandbox.exec("python3", "-c", _IN_SANDBOX)
            process.stdin.write(json.dumps(texts))
            process.stdin.write_eof()
            process.stdin.drain()
            if process.wait() != 0 or sandbox.exec("sync", "/v").wait() != 0:
                raise SystemExit("the sandbox's files were not committed")
        _tell({"done": True})


def _tell(what: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def _path(chance: random.Random) -> str:
    number = chance.randrange(PATHS)
    return f"d{number % 4}/f{number}"


if __name__ == "__main__":
    main()
