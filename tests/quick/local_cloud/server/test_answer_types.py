"""Every call is answered with the message that the protocol has for it: one of another kind would be read as empty."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest
from modal_proto import api_pb2, task_command_router_pb2

from workbench import local_cloud

_ANSWERS = {
    method.name: method.output_type.name
    for service in (
        api_pb2.DESCRIPTOR.services_by_name["ModalClient"],
        task_command_router_pb2.DESCRIPTOR.services_by_name["TaskCommandRouter"],
    )
    for method in service.methods
}


def _handlers() -> Iterator[tuple[str, Any]]:
    for found in pkgutil.walk_packages(local_cloud.__path__, f"{local_cloud.__name__}."):
        if found.name.endswith("__main__") or ".guest" in found.name:
            continue
        module = importlib.import_module(found.name)
        for _, group in inspect.getmembers(module, inspect.isclass):
            if group.__module__ == found.name:
                yield from ((name, one) for name, one in vars(group).items() if name in _ANSWERS)


HANDLERS = list(_handlers())


def test_there_are_many() -> None:
    assert len(HANDLERS) > 100


@pytest.mark.parametrize(("name", "handler"), HANDLERS, ids=[name for name, _ in HANDLERS])
def test_a_handler_answers_with_the_call_s_message(name: str, handler: Any) -> None:
    said = str(inspect.signature(handler).return_annotation)
    assert said.replace("'>", "").replace("]", "").rpartition(".")[2] == _ANSWERS[name]
