"""A command behaves in a warm interpreter as in one of its own."""

import os
import subprocess
import sys

import psutil
import pytest

from tests.support import warm

_ENV = {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200"}
COMMANDS = {
    "help of modal": ("-m", "modal", "--help"),
    "version of modal": ("-m", "modal", "--version"),
    "a command that there is not": ("-m", "modal", "nonsense"),
    "help of the workbench": ("-m", "workbench", "cloud", "--help"),
    "a refused command of the workbench": ("-m", "workbench", "run", "python"),
    "input, arguments, an exit code": ("-c", "import sys; print(sys.stdin.read(), sys.argv); sys.exit(3)", "a", "b c"),
    "a traceback": ("-c", "def f():\n  raise ValueError('no')\nf()"),
    "the interpreter's end": (
        "-c",
        "import atexit, threading; atexit.register(print, 'last'); threading.Timer(0.1, print, ('first',)).start()",
    ),
    "a signal": ("-c", "import os; os.kill(os.getpid(), 9)"),
    "variables and directory": ("-c", "import os; print(os.getcwd(), os.environ['X'], len(os.environ))"),
    "its own main module": ("-c", "import sys, pickle\nclass C: pass\nprint(pickle.dumps(C()), sys.path[0] == '')"),
}


def _without_source(traceback: str) -> list[str]:
    """From Python 3.13 on, a traceback of `-c` quotes the code, which only the interpreter itself keeps."""
    return [line for line in traceback.splitlines() if not line.startswith("    ")]


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_it_prints_and_ends_as_a_process_of_its_own_does(command: tuple[str, ...]) -> None:
    env = {**os.environ, **_ENV, "X": "a word"}
    real = subprocess.run(
        [sys.executable, *command], env=env, input="given", capture_output=True, text=True, timeout=60, check=False
    )
    found = warm.run(*command, env=env, stdin="given")
    assert (found.returncode, found.stdout) == (real.returncode, real.stdout)
    assert _without_source(found.stderr) == _without_source(real.stderr)
    assert warm.server_pids()


def test_what_a_module_has_read_when_it_was_imported_is_never_another_value() -> None:
    """A command with another value of such a variable runs in an interpreter that has read that value."""
    code = "import os, modal.config; print(modal.config.user_config_path, os.getppid())"
    parents = set()
    for path in ("/one.toml", "/two.toml", "/three.toml", "/four.toml", "/five.toml", "/six.toml"):
        found = warm.run("-c", code, env={**os.environ, **_ENV, "MODAL_CONFIG_PATH": path}).stdout.split()
        assert found[0] == path
        parents.add(int(found[1]))
    assert os.getpid() in parents  # there are not as many warm ones as values
    warm.close()


def test_a_command_that_is_late_is_ended() -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        warm.run("-c", "import time; time.sleep(60)", env={**os.environ, **_ENV}, timeout_s=1)
    assert warm.run("-c", "print(1)", env={**os.environ, **_ENV}).stdout == "1\n"


def test_a_program_can_stand_in_for_the_interpreter_s() -> None:
    """Its input, output, exit code and end by a signal are those of the command; it takes the command with it."""
    warm.close()  # other tests may have started as many interpreters as there may be
    env = {**os.environ, **_ENV}

    def program(code: str) -> list[str]:
        found = warm.in_place_of("-c", code, env=env)
        assert found is not None
        return found

    shout = program("import sys; print(sys.stdin.read().upper()); sys.exit(3)")
    done = subprocess.run(shout, env=env, input="given", capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "GIVEN\n", "")
    killing = program("import os; os.kill(os.getpid(), 15)")
    assert subprocess.run(killing, env=env, timeout=60, check=False).returncode == -15
    other = subprocess.run(shout, env={**env, "TERM": "xterm"}, input="x", text=True, capture_output=True, check=False)
    assert (other.returncode, other.stdout) == (3, "X\n")  # it has an interpreter of its own

    lasting = program("import time; print(__import__('os').getpid(), flush=True); time.sleep(600)")
    with subprocess.Popen(lasting, env=env, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        command = psutil.Process(int(process.stdout.readline()))
        process.kill()
    psutil.wait_procs([command], 10)
    assert not command.is_running()
