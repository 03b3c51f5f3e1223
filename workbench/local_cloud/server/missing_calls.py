"""The answer to a call of the protocol that the local cloud does not have: its name, and what to do instead."""

_NO_STATISTICS = "it keeps no statistics. `modal function calls` lists the inputs that it remembers"
_NO_METRICS = "it collects no metrics. `modal container list` tells what runs"
_NO_SERVERS = "it has no servers. Use `modal.asgi_app`, `modal.wsgi_app` or `modal.fastapi_endpoint`"
_NO_ENDPOINTS = "it runs no models. Deploy a web function that asks one"
_OWN_ACCESS = (
    'it has one token, which is made by itself. Run `eval "$(workbench cloud env)"` in this shell to use it, or '
    "`unset MODAL_SERVER_URL` to sign in to Modal itself"
)
_NO_ROLES = "whoever has its token may do everything, in every environment. Leave roles out"

_INSTEAD = {
    "AppGetTimeRangeStats": _NO_STATISTICS,
    "CurlGetAuthToken": "its web functions need no signed request. Run `curl` itself with the function's URL",
    "EndpointCreate": _NO_ENDPOINTS,
    "EndpointGetByName": _NO_ENDPOINTS,
    "EndpointGetInfo": _NO_ENDPOINTS,
    "EndpointGetLibrary": _NO_ENDPOINTS,
    "EndpointGetLifecycle": _NO_ENDPOINTS,
    "EndpointList": _NO_ENDPOINTS,
    "EndpointStop": _NO_ENDPOINTS,
    "EnvironmentGetRoles": _NO_ROLES,
    "EnvironmentRoleSet": _NO_ROLES,
    "FunctionGetMetrics": _NO_METRICS,
    "FunctionGetTimeRangeStats": _NO_STATISTICS,
    "FunctionStartPtyShell": (
        "a function's container has no terminal. Print what you want to know, or run the code in a sandbox, whose "
        "`exec(…, pty=True)` has one"
    ),
    "MetricsGetInfo": _NO_METRICS,
    "SandboxGetTimeRangeStats": "it keeps no statistics. `Sandbox.list` names the sandboxes that it remembers",
    "ServerCountRequests": _NO_SERVERS,
    "ServerGetMetrics": _NO_SERVERS,
    "ServerGetTimeRangeStats": _NO_SERVERS,
    "ServerRequestFetch": _NO_SERVERS,
    "TokenDelete": _OWN_ACCESS,
    "TokenFlowCreate": _OWN_ACCESS,
    "TokenFlowWait": _OWN_ACCESS,
    "WorkspaceDashboardUrlGet": "it has no web page. Use `modal app list` and `modal app logs`",
}

# They ask for a token, so their callers have none yet; the refusal tells them where it is.
WITHOUT_A_TOKEN = frozenset(("TokenFlowCreate", "TokenFlowWait"))


def refusal(rpc: str) -> str:
    """Return the sentence that refuses a call of the protocol."""
    return f"{rpc} is not implemented by the local cloud: {_INSTEAD.get(rpc, 'Modal itself has it')}."


def explained() -> frozenset[str]:
    """Return the names of the calls whose refusal says what to do instead."""
    return frozenset(_INSTEAD)
