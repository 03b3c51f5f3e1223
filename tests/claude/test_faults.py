"""Every row of the table of faults with the real CLI: which end it comes to, and in which time."""

import asyncio
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from modal_app.actions.claude_command import Command
from modal_app.actions.claude_stream import ClaudeStream, Item, Message, Text
from modal_app.contract.claude import ClaudeOptions
from modal_app.contract.errors import ErrorCode
from tests.claude import cli
from tests.claude.cases import CASES, WORDS
from tests.claude.conftest import Calls
from workbench.scripted_model import Fault, Script, ScriptedModel, Tool, Turn

BOUND_S = 30  # a loaded machine included; with the product's patience every row stays under a minute
STALL_S = 2


@pytest.mark.parametrize("name", CASES)
async def test_a_job_ends_as_it_must_and_in_time(name: str, call: Calls, workspace: Path) -> None:
    case = CASES[name]
    async with ScriptedModel(case.script) as model:
        command = call(model.url, model.key, ClaudeOptions("go", **case.options), case.patience)
        ended = await cli.run(command, workspace)
    stream = ClaudeStream(clock=time.monotonic, wants_structured="json_schema" in case.options)
    items = stream.feed(ended.stdout) + stream.finish()
    error = stream.verdict(ended.returncode).error
    assert (error.code if error else None) == case.code, ended.stdout.decode()
    assert case.told in (error.message if error else "")
    assert ended.returncode == case.exit_code
    assert ended.seconds < BOUND_S
    assert model.key.get_secret_value() not in ended.stdout.decode() + ended.stderr.decode()
    replaced = {item.replaces for item in items if isinstance(item, Text | Message)} - {None}
    assert bool(replaced) == case.replaced


class Live:
    """A CLI that runs, in a group of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.stream = ClaudeStream(clock=time.monotonic)
        self.items: list[Item] = []

    async def read_until(self, text: str) -> None:
        """Read until the model has said a text."""
        assert self.process.stdout is not None
        async with asyncio.timeout(BOUND_S):
            while text not in "".join(item.text for item in self.items if isinstance(item, Text)):
                due = self.stream.due_at
                try:
                    async with asyncio.timeout(None if due is None else max(0, due - time.monotonic())):
                        data = await self.process.stdout.read(65536)
                except TimeoutError:
                    self.items += self.stream.poll()
                    continue
                assert data, "the CLI ended early"
                self.items += self.stream.feed(data)

    async def read_to_the_end(self) -> int:
        """Read what is left and return the exit code."""
        assert self.process.stdout is not None
        async with asyncio.timeout(BOUND_S):
            while data := await self.process.stdout.read(65536):
                self.stream.feed(data)
            self.stream.finish()
            return await self.process.wait()

    def kill(self) -> None:
        """End the whole group."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has ended

    async def aclose(self) -> None:
        """End it if it runs, with what it has started. Idempotent."""
        if self.process.returncode is None:
            self.process.terminate()
        try:
            async with asyncio.timeout(10):
                await self.process.wait()
        except TimeoutError:
            self.kill()
            await self.process.wait()


async def start(command: Command, workspace: Path) -> Live:
    process = await asyncio.create_subprocess_exec(
        *command.argv,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=workspace,
        env={"PATH": os.environ["PATH"], "HOME": str(workspace.parent), **command.env},
        start_new_session=True,
    )
    assert process.stdin is not None
    process.stdin.write(command.stdin)
    process.stdin.close()
    return Live(process)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
async def test_a_signal_leaves_no_result_and_is_a_failure(
    number: int, exit_code: int, call: Calls, workspace: Path
) -> None:
    script = Script.of(Turn(text=WORDS, fault=Fault(kind="pings_forever", after_deltas=3)))
    async with ScriptedModel(script) as model:
        live = await start(call(model.url, model.key, "go"), workspace)
        try:
            await live.read_until("three")
            live.process.send_signal(number)
            assert await live.read_to_the_end() == exit_code
        finally:
            await live.aclose()
    error = live.stream.verdict(exit_code).error
    assert error is not None
    assert (error.code, error.exit_code) == (ErrorCode.PROCESS_FAILED, exit_code)


async def test_a_model_that_only_pings_is_silence(call: Calls, workspace: Path) -> None:
    """The CLI would wait for ever: its owner sees that nothing was said, and ends it."""
    script = Script.of(Turn(text=WORDS, fault=Fault(kind="pings_forever", after_deltas=2)))
    async with ScriptedModel(script) as model:
        live = await start(call(model.url, model.key, "go"), workspace)
        try:
            await live.read_until("two")
            assert live.process.stdout is not None
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(STALL_S):
                    live.stream.feed(await live.process.stdout.read(65536))
            assert live.stream.quiet_s >= STALL_S * 0.9
            assert live.process.returncode is None
        finally:
            await live.aclose()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
async def test_only_a_signal_that_it_can_answer_ends_what_its_bash_tool_started(
    number: int, call: Calls, workspace: Path
) -> None:
    """Each command is the leader of a session of its own: no kill of the CLI's group reaches it."""
    script = Script.of(Turn(tools=(Tool(name="Bash", input={"command": "echo $$ > pid; sleep 300"}),)))
    async with ScriptedModel(script) as model:
        live = await start(call(model.url, model.key, ClaudeOptions("go", allowed_tools=("Bash",))), workspace)
        family: list[psutil.Process] = []
        try:
            async with asyncio.timeout(BOUND_S):
                while not (leader := _leader(workspace)):  # noqa: ASYNC110  # another process writes the file
                    await asyncio.sleep(0.02)
            family = [psutil.Process(leader), *psutil.Process(leader).children(recursive=True)]
            assert os.getsid(leader) == leader
            live.process.send_signal(number)
            await live.read_to_the_end()
            live.kill()
            _, alive = psutil.wait_procs(family, timeout=0.5 if number == signal.SIGKILL else 10)
            assert bool(alive) == (number == signal.SIGKILL)
        finally:
            await live.aclose()
            for process in family:
                if process.is_running():
                    process.kill()
            psutil.wait_procs(family, timeout=10)


def _leader(workspace: Path) -> int:
    path = workspace / "pid"
    return int(path.read_text().strip() or 0) if path.exists() else 0
