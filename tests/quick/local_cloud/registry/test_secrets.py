"""The SDK's secrets for private registries become credentials, and go nowhere but to the registries they are for."""

import base64
import json

import pytest
from modal._image import _REGISTRY_AUTH_KEY_SETS
from modal_proto import api_pb2

from tests.support.registry import Fault, registry
from workbench.local_cloud.base.errors import Reason
from workbench.local_cloud.registry.errors import RegistryError
from workbench.local_cloud.registry.references import ImageReference
from workbench.local_cloud.registry.secrets import AuthType, credentials_of

ACCOUNT = json.dumps({"type": "service_account", "private_key": "the-private-key"})
ECR = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/a:1"
AWS = {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "the-secret-key", "AWS_REGION": "eu-west-1"}
STATIC = {"REGISTRY_USERNAME": "ann", "REGISTRY_PASSWORD": "the-password"}


def test_the_numbers_are_those_of_the_protocol() -> None:
    assert {kind.name: kind.value for kind in AuthType} == {
        name.removeprefix("REGISTRY_AUTH_TYPE_"): number for name, number in api_pb2.RegistryAuthType.items()
    }


def test_every_set_of_keys_that_the_sdk_knows_is_known() -> None:
    """A new SDK that sends other keys fails here."""
    known = [set(STATIC), {"SERVICE_ACCOUNT_JSON"}, set(AWS), {"AWS_ROLE_ARN", "AWS_REGION"}]
    assert all(keys in known for sets in _REGISTRY_AUTH_KEY_SETS.values() for keys in sets)


@pytest.mark.parametrize("kind", [AuthType.UNSPECIFIED, AuthType.PUBLIC])
async def test_a_public_registry_needs_nothing(kind: AuthType) -> None:
    assert await credentials_of(kind, {}, ImageReference.parse("alpine")) is None


async def test_a_user_and_a_password_are_taken_for_any_registry() -> None:
    found = await credentials_of(AuthType.STATIC_CREDS, STATIC, ImageReference.parse("ghcr.io/a/b"))
    assert found is not None
    assert base64.b64decode(found.basic().get_secret_value().removeprefix("Basic ")) == b"ann:the-password"
    assert "the-password" not in repr(found)
    assert "the-password" not in str(found)


@pytest.mark.parametrize("image", ["us-east1-docker.pkg.dev/p/r/i:v", "gcr.io/p/i", "eu.gcr.io/p/i", "127.0.0.1:1/x"])
async def test_a_service_account_is_the_password_of_googles_registries(image: str) -> None:
    found = await credentials_of(AuthType.GCP, {"SERVICE_ACCOUNT_JSON": ACCOUNT}, ImageReference.parse(image))
    assert found is not None
    assert (found.username, found.password.get_secret_value()) == ("_json_key", ACCOUNT)


@pytest.mark.parametrize(
    "host",
    [
        "ghcr.io",
        "docker.io",
        "evil.example",
        "us-docker.pkg.dev.evil.example",
        "xgcr.io",
        "gcr.io.evil.example",
        "gcr.io:8443",
        "pkg.dev",
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com.evil.example",
        "dkr.ecr.eu-west-1.amazonaws.com",
    ],
)
@pytest.mark.parametrize(("kind", "values"), [(AuthType.GCP, {"SERVICE_ACCOUNT_JSON": ACCOUNT}), (AuthType.AWS, AWS)])
async def test_keys_of_a_cloud_are_not_sent_to_other_registries(
    host: str, kind: AuthType, values: dict[str, str]
) -> None:
    with pytest.raises(RegistryError, match="are not sent to") as refusal:
        await credentials_of(kind, values, ImageReference.parse(f"{host}/a/b"))
    assert "the-" not in refusal.value.message


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        (AuthType.STATIC_CREDS, {}, "REGISTRY_USERNAME and no REGISTRY_PASSWORD"),
        (AuthType.STATIC_CREDS, {"REGISTRY_USERNAME": "a"}, "REGISTRY_PASSWORD"),
        (AuthType.STATIC_CREDS, {**STATIC, "REGISTRY_PASSWORD": ""}, "REGISTRY_PASSWORD"),
        (AuthType.STATIC_CREDS, {**STATIC, "REGISTRY_USERNAME": "a:b"}, "colon"),
        (AuthType.GCP, {}, "SERVICE_ACCOUNT_JSON"),
        (AuthType.GCP, {"SERVICE_ACCOUNT_JSON": "/home/me/key.json"}, "a path to it"),
        (AuthType.GCP, {"SERVICE_ACCOUNT_JSON": "[]"}, "a path to it"),
        (AuthType.AWS, {}, "AWS_ACCESS_KEY_ID"),
        (AuthType.AWS, {**AWS, "AWS_REGION": ""}, "AWS_REGION"),
        (AuthType.AWS, {"AWS_ROLE_ARN": "arn:aws:iam::1:role/x", "AWS_REGION": "eu-west-1"}, "AWS_ROLE_ARN"),
    ],
)
async def test_a_secret_without_its_keys_is_refused_by_their_names(
    kind: AuthType, values: dict[str, str], said: str
) -> None:
    with pytest.raises(RegistryError, match=said) as refusal:
        await credentials_of(kind, values, ImageReference.parse(ECR))
    assert refusal.value.reason in (Reason.INVALID_ARGUMENT, Reason.UNIMPLEMENTED)
    assert "the-" not in refusal.value.message


@pytest.mark.parametrize(
    "image",
    [
        ECR,
        "123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com/a",
        "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn/a",
        "localhost:5000/a",
    ],
)
async def test_keys_of_aws_become_ecrs_password(image: str) -> None:
    token = base64.b64encode(b"AWS:of-ecr").decode()
    answer = json.dumps({"authorizationData": [{"authorizationToken": token}]}).encode()
    with registry(faults=[Fault("^/$", status=200, body=answer)]) as ecr:
        found = await credentials_of(
            AuthType.AWS,
            {**AWS, "AWS_SESSION_TOKEN": "of-a-session"},
            ImageReference.parse(image),
            aws_endpoint=f"http://{ecr.address}/",
        )
    assert found is not None
    assert (found.username, found.password.get_secret_value()) == ("AWS", "of-ecr")
    assert ecr.seen[0].headers["x-amz-security-token"] == "of-a-session"
