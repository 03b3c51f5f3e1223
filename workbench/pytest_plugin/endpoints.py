"""Web functions of apps that a test deploys to its local cloud, each with an HTTP client; stopped at the test's end."""

from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    import httpx
    import modal

    from workbench.pytest_plugin.session_cloud import ModalCloud

CLIENT_TIMEOUT_S = 60.0


class NoWebFunctionError(WorkbenchError, LookupError):
    """The app has no such web function, or several where none was named; the message says which there are."""


class Endpoints:
    """Deploys apps and opens HTTP clients for their web functions. What it has deployed, `close` stops."""

    def __init__(self, cloud: "ModalCloud", test_app_name: str) -> None:
        self._cloud = cloud
        self._test_app_name = test_app_name
        self._stack = ExitStack()
        self._deployed: dict[int, str] = {}  # by the identity of an app: the name under which it is deployed

    def __call__(
        self, app: "modal.App | None" = None, function: str = "", *, timeout_s: float = CLIENT_TIMEOUT_S
    ) -> "httpx.Client":
        """Deploy an app, once a test, and return a client whose base URL is its web function's.

        `function` is a function's name, or `Class.method`; it may be left out where the app has one web function only.
        Without an app, it is this package's endpoint `/generate`, without the Claude CLI; the client sends its secret.
        Raises NoWebFunctionError, DeployFailedError, and the SDK's errors of a deployment.
        """
        import httpx

        headers: dict[str, str] = {}
        if app is None:
            url, headers = self._generate()
        else:
            url = self._web_url(self._deploy(app), function or _the_only_one(app))
        client = httpx.Client(base_url=url, headers=headers, timeout=timeout_s, trust_env=False, follow_redirects=True)
        return self._stack.enter_context(client)

    def close(self) -> None:
        """Close the clients and stop the apps. Idempotent."""
        self._stack.close()
        self._deployed.clear()

    def _deploy(self, app: "modal.App") -> str:
        if not hasattr(app, "deploy"):
            raise TypeError(
                f"modal_endpoint takes a modal.App, not {app!r}: import it, as in `from my_program import app`"
            )
        if id(app) not in self._deployed:
            name = app.name or self._test_app_name
            app.deploy(name=name)
            self._stack.callback(stop, name)
            self._deployed[id(app)] = name
        return self._deployed[id(app)]

    def _web_url(self, app_name: str, function: str) -> str:
        import modal
        from modal.exception import NotFoundError

        first, _, method = function.partition(".")
        try:
            found: Any
            if method:
                found = getattr(modal.Cls.from_name(app_name, first)(), method)
            else:
                found = modal.Function.from_name(app_name, first)
            url = found.get_web_url()
        except (NotFoundError, AttributeError) as error:
            raise NoWebFunctionError(f"the app '{app_name}' has no function '{function}'") from error
        if not url:
            raise NoWebFunctionError(
                f"'{function}' of the app '{app_name}' is no web function: call it with `.remote()`, or decorate it, "
                "as with `@modal.fastapi_endpoint()`"
            )
        return str(url)

    def _generate(self) -> tuple[str, dict[str, str]]:
        from modal_app.contract.headers import SECRET_HEADER
        from workbench.session import connect

        workbench = self._stack.enter_context(
            connect("local", app_name=self._test_app_name, state_dir=self._cloud.state_dir)
        )
        self._stack.callback(stop, self._test_app_name)
        endpoint = workbench.deploy(with_claude=False)
        return endpoint.url, {SECRET_HEADER: endpoint.secret.get_secret_value()}


def stop(app_name: str) -> None:
    """Stop a deployed app, and whatever runs in it; nothing happens when there is none."""
    import modal
    from modal.exception import NotFoundError

    with suppress(NotFoundError):
        modal.App.lookup(app_name).stop()


def _the_only_one(app: "modal.App") -> str:
    """The name of an app's only web function. Raises NoWebFunctionError."""
    found = list(app._local_state.web_endpoints)  # what the SDK's own `modal serve` looks at
    if len(found) == 1:
        return str(found[0])
    there = f"it has {', '.join(found)}: name one of them" if found else "it has none"
    raise NoWebFunctionError(f"which web function of the app '{app.name}' is meant? {there}")
