"""What tests with the real Claude CLI share."""

from pathlib import Path
from typing import Protocol

import pytest
from pydantic import SecretStr

from modal_app.actions.claude_command import Command, ModelPatience, claude_command
from modal_app.contract.claude_options import ClaudeOptions
from tests.support.claude.cases import QUICK
from workbench.benchmarks import claude_cli


@pytest.fixture(scope="session")
def claude() -> str:
    """The CLI's program."""
    return str(claude_cli.program())


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A project's directory."""
    path = tmp_path / "workspace"
    path.mkdir()
    return path


class Calls(Protocol):
    """Makes the CLI's command against a model."""

    def __call__(
        self, url: str, key: SecretStr, options: ClaudeOptions | str, patience: ModelPatience = QUICK
    ) -> Command:
        """The command for a prompt or for options."""
        ...


@pytest.fixture
def call(claude: str, workspace: Path) -> Calls:
    """Makes commands whose sessions and files are in the workspace."""

    def make(url: str, key: SecretStr, options: ClaudeOptions | str, patience: ModelPatience = QUICK) -> Command:
        return claude_command(
            ClaudeOptions(options) if isinstance(options, str) else options,
            base_url=url,
            token=key,
            patience=patience,
            program=claude,
            config_dir=str(workspace / ".workbench" / "claude"),
            mcp_file=str(workspace.parent / "mcp.json"),
        )

    return make
