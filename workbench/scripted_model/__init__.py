"""A Messages API on loopback that plays scripts: it stands in for the model of the real Claude CLI without an account.

A script says what the model answers in a conversation, and how it fails. The server checks the credential of each
request, answers in the format of the real service, and remembers the requests.
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
    script_of,
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
    "script_of",
]
