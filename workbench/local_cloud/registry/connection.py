"""Speaks the distribution protocol's reading half with one registry about one repository: authentication, redirects.

Why redirects are followed here: credentials and tokens belong to the registry's own host, and the storage that it sends
readers to must never see them. Addresses are never told, since those of storage are signed: whoever has one may read.
"""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx
from pydantic import SecretStr

from workbench.local_cloud.base.errors import Reason
from workbench.local_cloud.registry.addresses import Address, is_loopback
from workbench.local_cloud.registry.challenges import Challenge, read_challenges
from workbench.local_cloud.registry.credentials import Credentials
from workbench.local_cloud.registry.errors import PassingError, RegistryError, damaged

_CONNECT_S = 10.0
_SILENCE_S = 30.0  # without a byte of an answer
_MOST_REDIRECTS = 5
_MOST_ANSWER_BYTES = 1 << 20  # of a token server
_CHUNK_BYTES = 1 << 20
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_PASSING = frozenset((408, 429, 500, 502, 503, 504))
_USER_AGENT = "modal-workbench"


class Connection:
    """A way to one repository. Made by `connected`, for one pull."""

    def __init__(self, client: httpx.AsyncClient, address: Address, credentials: Credentials | None) -> None:
        self._client = client
        self._address = address
        # Another host is another receiver, and a mirror is one.
        self._credentials = None if address.is_mirror else credentials
        self._authorization: SecretStr | None = None

    @asynccontextmanager
    async def get(self, path: str, headers: Mapping[str, str]) -> AsyncIterator[httpx.Response]:
        """Ask for something of the repository, once; the answer has status 200 or 206, and its body is not read yet.

        Raises PassingError for what may be otherwise soon, RegistryError for everything else.
        """
        url = httpx.URL(f"{self._address.base}/v2/{self._address.repository}/{path}")
        async with self._exchange(url, headers) as response:
            if response.status_code != 401 or self._is_elsewhere(response):
                self._check(response)
                yield response
                return
            challenges = read_challenges(response.headers.get_list("www-authenticate"))
        self._authorization = await self._answer_to(challenges)
        async with self._exchange(url, headers) as response:
            self._check(response)
            yield response

    @asynccontextmanager
    async def _exchange(self, url: httpx.URL, headers: Mapping[str, str]) -> AsyncIterator[httpx.Response]:
        """Send a request and follow where it is redirected to."""
        origin = _origin(url)
        for _ in range(_MOST_REDIRECTS + 1):
            own = {**headers, "Accept-Encoding": "identity", "User-Agent": _USER_AGENT}
            if self._authorization is not None and _origin(url) == origin:
                own["Authorization"] = self._authorization.get_secret_value()
            async with self._sent("GET", url, own, self._address.host) as response:
                if response.status_code not in _REDIRECTS:
                    yield response
                    return
                location = response.headers.get("location", "")
            url = self._redirected(url, location)
        raise damaged(f"The registry {self._address.host} redirects without an end.")

    def _redirected(self, url: httpx.URL, location: str) -> httpx.URL:
        try:
            target = url.join(location)
        except (httpx.InvalidURL, ValueError):
            raise damaged(f"The registry {self._address.host} redirects to no valid address.") from None
        if not location or not self._may_be_asked(target) or target.userinfo:
            raise damaged(
                f"The registry {self._address.host} redirects to an address that is not https, or has a password in "
                "it: it is not followed."
            )
        return target

    def _may_be_asked(self, url: httpx.URL) -> bool:
        """Whether a registry may send us to an address: to this machine only one that is on it itself may."""
        if is_loopback(url.host):
            return self._address.is_loopback and url.scheme in ("http", "https")
        return url.scheme == "https" and bool(url.host)

    @asynccontextmanager
    async def _sent(
        self, method: str, url: httpx.URL, headers: Mapping[str, str], host: str
    ) -> AsyncIterator[httpx.Response]:
        """Send one request; what goes wrong on the way, then or while the body is read, is a PassingError."""
        try:
            async with self._client.stream(method, url, headers=headers) as response:
                yield response
        except httpx.ConnectError as error:
            raise PassingError(
                Reason.UNAVAILABLE,
                f"The registry {host} cannot be reached ({_cause(error)}). Check its name and this machine's network, "
                "or set a mirror for it.",
            ) from None
        except httpx.TimeoutException:
            raise PassingError(
                Reason.UNAVAILABLE,
                f"The registry {host} does not answer (nothing came for {_SILENCE_S:.0f} s). Try again later, or set a "
                "mirror for it.",
            ) from None
        except httpx.HTTPError as error:
            raise PassingError(
                Reason.UNAVAILABLE, f"The connection to the registry {host} broke ({type(error).__name__})."
            ) from None

    # -- what answers mean

    def _check(self, response: httpx.Response) -> None:
        status, host = response.status_code, self._address.host
        if status in (200, 206):
            return
        if status in _PASSING:
            raise PassingError(
                Reason.UNAVAILABLE,
                f"The registry {host} answered {status}{_MEANING.get(status, '')}.",
                wait_s=_wait_s(response),
            )
        if status in (401, 403) and self._is_elsewhere(response):
            raise PassingError(
                Reason.UNAVAILABLE, f"The storage that the registry {host} sends readers to answered {status}."
            )
        if status in (401, 403):
            raise self._not_allowed()
        if status == 404:
            raise RegistryError(Reason.NOT_FOUND, f"The registry {host} does not have it.")
        raise RegistryError(Reason.UNAVAILABLE, f"The registry {host} answered {status}, which is not expected.")

    def _is_elsewhere(self, response: httpx.Response) -> bool:
        """Whether another host has answered, after a redirect: what that one asks for is not told to it."""
        return _origin(response.url) != _origin(httpx.URL(self._address.base))

    def _not_allowed(self) -> RegistryError:
        host, repository = self._address.host, self._address.repository
        if self._address.is_mirror:
            fix = "A mirror is asked without credentials: remove it from the settings to pull private images."
        elif self._credentials is None:
            fix = "Check the name; if it is private, pass a secret with REGISTRY_USERNAME and REGISTRY_PASSWORD."
        else:
            fix = "Check the secret: its user must be allowed to pull this repository."
        return RegistryError(
            Reason.PERMISSION_DENIED,
            f"The registry {host} does not give out {repository}, or does not have it. {fix}",
        )

    # -- authentication

    async def _answer_to(self, challenges: list[Challenge]) -> SecretStr:
        """Return the Authorization header that a registry wants. Raises RegistryError."""
        for challenge in challenges:
            if challenge.scheme == "bearer" and "realm" in challenge.parameters:
                return await self._token(challenge)
            if challenge.scheme == "basic" and self._credentials is not None:
                return self._credentials.basic()
        if challenges and all(challenge.scheme not in ("bearer", "basic") for challenge in challenges):
            raise RegistryError(
                Reason.UNIMPLEMENTED,
                f"The registry {self._address.host} wants a way of authentication that is not known here; known are "
                "Basic and Bearer.",
            )
        raise self._not_allowed()

    async def _token(self, challenge: Challenge) -> SecretStr:
        """Ask the registry's token server for a token to pull this repository, whatever more the registry names."""
        try:
            realm = httpx.URL(challenge.parameters["realm"])
        except (httpx.InvalidURL, ValueError):
            realm = httpx.URL("")
        if not self._may_be_asked(realm) or realm.userinfo:
            raise damaged(
                f"The registry {self._address.host} names a token server that is not asked: only https is safe enough."
            )
        query = {"scope": f"repository:{self._address.repository}:pull"}
        if "service" in challenge.parameters:
            query["service"] = challenge.parameters["service"]
        headers = {"Accept-Encoding": "identity", "User-Agent": _USER_AGENT}
        if self._credentials is not None:
            headers["Authorization"] = self._credentials.basic().get_secret_value()
        async with self._sent("GET", realm.copy_merge_params(query), headers, realm.host) as response:
            if response.status_code in (400, 401, 403):
                raise self._not_allowed()
            if response.status_code in _PASSING:
                raise PassingError(
                    Reason.UNAVAILABLE,
                    f"The token server {realm.host} answered {response.status_code}.",
                    wait_s=_wait_s(response),
                )
            if response.status_code != 200:
                raise damaged(f"The token server {realm.host} answered {response.status_code}, which is not expected.")
            answer = await read_body(response, _MOST_ANSWER_BYTES, f"The answer of the token server {realm.host}")
        return SecretStr(f"Bearer {_token_in(answer, realm.host)}")


@asynccontextmanager
async def connected(address: Address, credentials: Credentials | None) -> AsyncIterator[Connection]:
    """Speak with a registry for the time of the block."""
    async with httpx.AsyncClient(
        timeout=httpx.Timeout(_SILENCE_S, connect=_CONNECT_S),
        follow_redirects=False,
        trust_env=not address.is_loopback,  # proxies of the environment are for the network beyond this machine
    ) as client:
        yield Connection(client, address, credentials)


async def read_body(response: httpx.Response, limit: int, what: str) -> bytes:
    """Read a body of at most `limit` bytes, as it came; `what` begins the message of the RegistryError beyond."""
    body = bytearray()
    async for chunk in response.aiter_raw(_CHUNK_BYTES):
        body += chunk
        if len(body) > limit:
            raise damaged(f"{what} is longer than {limit:,} bytes.")
    return bytes(body)


_MEANING = {429: " (too many requests)", 503: " (it is not available now)"}


def _token_in(answer: bytes, host: str) -> str:
    try:
        read = json.loads(answer)
        token = read.get("token") or read.get("access_token")
    except (ValueError, AttributeError, RecursionError):
        token = None
    if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable():
        raise damaged(f"The token server {host} answered without a token.")
    return token


def _origin(url: httpx.URL) -> tuple[str, str, int]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme, 0)


def _wait_s(response: httpx.Response) -> float | None:
    """The seconds of a Retry-After header, which is a number or a date; None without one that makes sense."""
    value = response.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _cause(error: httpx.ConnectError) -> str:
    """Why there is no connection, in the words of the system, without an address."""
    text = str(error).lower()
    if "certificate" in text or "ssl" in text:
        return "its certificate or its TLS is not accepted"
    if "name or service" in text or "name resolution" in text or "nodename" in text or "getaddrinfo" in text:
        return "its name is not known"
    return "no connection"
