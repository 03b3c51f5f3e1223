"""Asks Amazon ECR for the password of its registries, with a request signed by AWS Signature Version 4.

Of AWS only this one call is needed, which is why no SDK of theirs is.
"""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

import httpx
from pydantic import SecretStr

from workbench.local_cloud.base.errors import Reason
from workbench.local_cloud.registry.connection import read_body
from workbench.local_cloud.registry.credentials import Credentials
from workbench.local_cloud.registry.errors import RegistryError, damaged, refused

_ALGORITHM = "AWS4-HMAC-SHA256"
_REGION = re.compile(r"[a-z]{2,4}(?:-[a-z]+)+-[0-9]{1,2}")
_TARGET = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"
_MOST_ANSWER_BYTES = 1 << 20


@dataclass(frozen=True)
class AwsKeys:
    """What signs a request; the session token belongs to temporary keys."""

    access_key_id: str
    secret_access_key: SecretStr
    session_token: SecretStr | None = None


async def ecr_credentials(keys: AwsKeys, region: str, *, endpoint: str | None = None, timeout_s: float) -> Credentials:
    """Return the user name and password of a region's registries; they hold for 12 hours. Raises RegistryError.

    `endpoint` is for tests: another address than AWS's own.
    """
    if not _REGION.fullmatch(region):
        raise refused(f"AWS_REGION is {region[:40]!r}, which is no region's name, such as us-east-1.")
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    url = endpoint or f"https://api.ecr.{region}.{suffix}/"
    body = b"{}"
    headers = {
        "host": urlsplit(url).netloc,
        "content-type": "application/x-amz-json-1.1",
        "x-amz-target": _TARGET,
        "accept-encoding": "identity",
    }
    signed = sign(keys, "POST", url, headers, body, region=region, service="ecr", at=datetime.now(UTC))
    try:
        async with (
            httpx.AsyncClient(timeout=timeout_s, follow_redirects=False, trust_env=endpoint is None) as client,
            client.stream("POST", url, headers=signed, content=body) as response,
        ):
            answer = await read_body(response, _MOST_ANSWER_BYTES, "The answer of AWS")
    except httpx.HTTPError as error:
        raise RegistryError(
            Reason.UNAVAILABLE,
            f"AWS's {urlsplit(url).hostname} cannot be reached for the registry's password ({type(error).__name__}). "
            "Check AWS_REGION and this machine's network.",
        ) from None
    return _credentials_in(answer, response.status_code)


def sign(
    keys: AwsKeys,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    region: str,
    service: str,
    at: datetime,
) -> dict[str, str]:
    """Return `headers` (names in lower case, `host` among them) with a signature, by AWS's documented algorithm."""
    time = at.strftime("%Y%m%dT%H%M%SZ")
    sent = {**headers, "x-amz-date": time}
    if keys.session_token is not None:
        sent["x-amz-security-token"] = keys.session_token.get_secret_value()
    names = ";".join(sorted(sent))
    scope = f"{time[:8]}/{region}/{service}/aws4_request"
    request = _canonical(method, url, sent, names, body)
    to_sign = "\n".join((_ALGORITHM, time, scope, hashlib.sha256(request.encode()).hexdigest()))
    key = signing_key(keys.secret_access_key, time[:8], region, service)
    signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    credential = f"Credential={keys.access_key_id}/{scope}"
    return {**sent, "authorization": f"{_ALGORITHM} {credential}, SignedHeaders={names}, Signature={signature}"}


def signing_key(secret: SecretStr, date: str, region: str, service: str) -> bytes:
    """Derive the key of one day, region and service."""
    key = f"AWS4{secret.get_secret_value()}".encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key


def _canonical(method: str, url: str, headers: Mapping[str, str], names: str, body: bytes) -> str:
    parts = urlsplit(url)
    pairs = [pair.partition("=") for pair in parts.query.split("&") if pair]
    return "\n".join(
        (
            method,
            quote(parts.path or "/", safe="/-_.~"),  # once more than in the address, as AWS has it
            "&".join(f"{name}={value}" for name, _, value in sorted(pairs)),
            *(f"{name}:{' '.join(headers[name].split())}" for name in names.split(";")),
            "",
            names,
            hashlib.sha256(body).hexdigest(),
        )
    )


def _credentials_in(answer: bytes, status: int) -> Credentials:
    """Read AWS's answer. Of a refusal only its kind is told."""
    try:
        read = json.loads(answer)
        if status != 200:
            kind = str(read.get("__type", "")).rpartition("#")[2][:80]
            raise RegistryError(
                Reason.PERMISSION_DENIED,
                f"AWS does not give a password for its registry: it answered {status} "
                f"({''.join(letter for letter in kind if letter.isalnum()) or 'without a reason'}). Check the secret's "
                "keys, AWS_REGION, and that they are allowed ecr:GetAuthorizationToken.",
            )
        pair = base64.b64decode(read["authorizationData"][0]["authorizationToken"], validate=True).decode()
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise damaged(f"AWS answered {status} without a password for its registry.") from None
    username, colon, password = pair.partition(":")
    if not colon or not password:
        raise damaged("AWS answered without a password for its registry.")
    return Credentials(username, SecretStr(password))
