"""Turns the secret of a private registry, as Modal's SDK passes it, into credentials.

The SDK sends an auth type and a secret's id (`ImageRegistryConfig`); which of the secret's keys belong to which type
stands in its `_REGISTRY_AUTH_KEY_SETS`. Keys of a cloud go to that cloud's own registries alone.
"""

import json
import re
from collections.abc import Mapping
from enum import Enum

from pydantic import SecretStr

from workbench.local_cloud.base.errors import Reason
from workbench.local_cloud.registry.addresses import is_loopback
from workbench.local_cloud.registry.aws import AwsKeys, ecr_credentials
from workbench.local_cloud.registry.credentials import Credentials
from workbench.local_cloud.registry.errors import RegistryError, refused
from workbench.local_cloud.registry.references import ImageReference

_ECR = re.compile(r"[0-9]{12}\.dkr[.-]ecr(?:-fips)?\.[a-z0-9-]+\.(?:amazonaws\.com(?:\.cn)?|on\.aws)")
_GOOGLE = re.compile(r"(?:[a-z0-9-]+-docker\.pkg\.dev|(?:[a-z]+\.)?gcr\.io)")
_AWS_TIMEOUT_S = 30.0


class AuthType(Enum):
    """`RegistryAuthType` of Modal's protocol, with its numbers."""

    UNSPECIFIED = 0
    AWS = 1
    GCP = 2
    PUBLIC = 3
    STATIC_CREDS = 4


async def credentials_of(
    kind: AuthType, values: Mapping[str, str], reference: ImageReference, *, aws_endpoint: str | None = None
) -> Credentials | None:
    """Return the credentials for an image's registry, None for a public one.

    `values` are the secret's. For AWS, ECR is asked for a password; `aws_endpoint` puts another address in its place.
    Raises RegistryError INVALID_ARGUMENT for a secret without the keys, or whose keys are for other registries than
    the image's; UNIMPLEMENTED for a role; what `ecr_credentials` raises.
    """
    match kind:
        case AuthType.STATIC_CREDS:
            name, password = _required(values, "REGISTRY_USERNAME", "REGISTRY_PASSWORD")
            if ":" in name:
                raise refused("REGISTRY_USERNAME must not have a colon in it.")
            return Credentials(name, SecretStr(password))
        case AuthType.GCP:
            return _google(values, reference)
        case AuthType.AWS:
            return await _amazon(values, reference, aws_endpoint)
    return None


def _google(values: Mapping[str, str], reference: ImageReference) -> Credentials:
    """A service account's key is itself the password of Google's registries."""
    (account,) = _required(values, "SERVICE_ACCOUNT_JSON")
    try:
        is_key = isinstance(json.loads(account), dict)
    except (ValueError, RecursionError):
        is_key = False
    if not is_key:
        raise refused("SERVICE_ACCOUNT_JSON is not the JSON text of a service account's key: a path to it does not do.")
    _require_own(reference, _GOOGLE, "Google's (…-docker.pkg.dev, gcr.io)")
    return Credentials("_json_key", SecretStr(account))


async def _amazon(values: Mapping[str, str], reference: ImageReference, endpoint: str | None) -> Credentials:
    if "AWS_ROLE_ARN" in values and "AWS_ACCESS_KEY_ID" not in values:
        raise RegistryError(
            Reason.UNIMPLEMENTED,
            "AWS_ROLE_ARN needs Modal's own identity, which the local cloud does not have: use a secret with "
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION.",
        )
    key_id, key, region = _required(values, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION")
    _require_own(reference, _ECR, "AWS's (….dkr.ecr.REGION.amazonaws.com)")
    session = values.get("AWS_SESSION_TOKEN")
    keys = AwsKeys(key_id, SecretStr(key), SecretStr(session) if session else None)
    return await ecr_credentials(keys, region, endpoint=endpoint, timeout_s=_AWS_TIMEOUT_S)


def _required(values: Mapping[str, str], *names: str) -> tuple[str, ...]:
    missing = [name for name in names if not values.get(name)]
    if missing:
        raise refused(f"The registry's secret has no {' and no '.join(missing)}, which its kind of registry needs.")
    return tuple(values[name] for name in names)


def _require_own(reference: ImageReference, hosts: re.Pattern[str], whose: str) -> None:
    host = reference.domain.rpartition(":")[0] if re.search(r":[0-9]+$", reference.domain) else reference.domain
    if not hosts.fullmatch(reference.domain) and not is_loopback(host.strip("[]")):
        raise refused(
            f"The secret's keys are for {whose} registries, and are not sent to {reference.domain}: "
            "for another registry, use REGISTRY_USERNAME and REGISTRY_PASSWORD."
        )
