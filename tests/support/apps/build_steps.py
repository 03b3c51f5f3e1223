"""Functions that run while images are built. A file of its own: a container needs nothing else to import it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

GREETING = "hello"


def writes(name: str, *, times: int = 1) -> None:
    print("writing for", name)  # noqa: T201  # output is what this is about
    Path("/made.txt").write_text(f"{GREETING} {name} " * times)
    subprocess.run(["useradd", "--create-home", "bob"], check=True)
    os.chown("/made.txt", 1000, 1000)


def shows(path: str = "/made.txt") -> str:
    return Path(path).read_text()


def in_a_volume(text: str) -> None:
    Path("/there/text").write_text(text)


def tells_a_secret(where: str) -> None:
    Path("/seen").write_text(str(len(os.environ["TOKEN"])) + os.environ["SETTING"])
    print("the secret is", os.environ["TOKEN"])  # noqa: T201  # output is what this is about
    if where == "in an exception":
        raise ValueError(os.environ["TOKEN"].split("\n")[0])


def counts(number: int = 0) -> None:
    with Path("/counted").open("a") as file:
        file.write(f"{number} {os.urandom(8).hex()}\n")


def uses(package: str) -> None:
    __import__(package)
    Path("/used").write_text(package)


def fails() -> None:
    print("about to fail")  # noqa: T201  # output is what this is about
    raise ValueError("it cannot be done")


def leaves() -> None:
    print("leaving", flush=True)  # noqa: T201  # output is what this is about
    os._exit(3)


def leaves_well() -> None:
    os._exit(0)


def is_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def gives_up() -> None:
    sys.exit("giving up")


def never_ends(where: str) -> None:
    subprocess.Popen(["sleep", "7654"], start_new_session=True)
    Path("/marked").write_text(where)
    time.sleep(600)


def leaves_a_child() -> None:
    subprocess.Popen(["sh", "-c", "while :; do date > /still; done"], start_new_session=True)
    Path("/done").touch()


def prints_much() -> None:
    for _ in range(100):
        sys.stdout.write("x" * 1000 * 1000 + "\n")
    Path("/printed").touch()
