"""A loopback Messages API that plays scripts: the model of the real Claude CLI where there is no account.

A script says what the model answers to a conversation, and how it fails. The server checks the credential it is shown,
answers with the frames of the real service, and remembers what it was asked.
"""

from workbench.scripted_model.messages_server import Asked, ScriptedModel
from workbench.scripted_model.script import (
    Block,
    Conversation,
    Fault,
    Script,
    ScriptError,
    Tool,
    Turn,
    load_script,
    parse_script,
)

__all__ = [
    "Asked",
    "Block",
    "Conversation",
    "Fault",
    "Script",
    "ScriptError",
    "ScriptedModel",
    "Tool",
    "Turn",
    "load_script",
    "parse_script",
]
