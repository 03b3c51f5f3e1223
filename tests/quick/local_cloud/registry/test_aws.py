"""Requests to AWS are signed by its documented algorithm: the signatures of its own published examples come out."""

import base64
import json
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from tests.support.registry import Fault, registry
from workbench.local_cloud.base.errors import Reason
from workbench.local_cloud.registry.aws import AwsKeys, ecr_credentials, sign, signing_key
from workbench.local_cloud.registry.errors import RegistryError

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
KEYS = AwsKeys("AKIDEXAMPLE", SecretStr(SECRET))
AT = datetime(2015, 8, 30, 12, 36, 0, tzinfo=UTC)
HOST = {"host": "example.amazonaws.com"}


def test_the_key_of_a_day_a_region_and_a_service() -> None:
    """The example of AWS's page on deriving the signing key."""
    assert signing_key(SecretStr(SECRET), "20150830", "us-east-1", "iam").hex() == (
        "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9"
    )


@pytest.mark.parametrize(
    ("method", "url", "headers", "service", "signature"),
    [
        (  # get-vanilla of AWS's test suite
            "GET",
            "https://example.amazonaws.com/",
            HOST,
            "service",
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
        ),
        (  # post-vanilla
            "POST",
            "https://example.amazonaws.com/",
            HOST,
            "service",
            "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
        ),
        (  # get-vanilla-query-order-key-case
            "GET",
            "https://example.amazonaws.com/?Param2=value2&Param1=value1",
            HOST,
            "service",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        (  # the example of the page on signing requests
            "GET",
            "https://iam.amazonaws.com/?Action=ListUsers&Version=2010-05-08",
            {"host": "iam.amazonaws.com", "content-type": "application/x-www-form-urlencoded; charset=utf-8"},
            "iam",
            "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7",
        ),
    ],
)
def test_signatures_are_those_that_aws_publishes(
    method: str, url: str, headers: dict[str, str], service: str, signature: str
) -> None:
    signed = sign(KEYS, method, url, headers, b"", region="us-east-1", service=service, at=AT)
    assert signed["authorization"] == (
        f"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/{service}/aws4_request, "
        f"SignedHeaders={';'.join(sorted((*headers, 'x-amz-date')))}, Signature={signature}"
    )


def test_a_session_token_is_sent_and_signed() -> None:
    keys = AwsKeys("AKIDEXAMPLE", SecretStr(SECRET), SecretStr("of-a-role"))
    signed = sign(keys, "GET", "https://example.amazonaws.com/", HOST, b"", region="us-east-1", service="s", at=AT)
    assert signed["x-amz-security-token"] == "of-a-role"
    assert "SignedHeaders=host;x-amz-date;x-amz-security-token" in signed["authorization"]


async def test_ecr_answers_a_user_and_a_password() -> None:
    token = base64.b64encode(b"AWS:the:password").decode()
    answer = json.dumps({"authorizationData": [{"authorizationToken": token}]}).encode()
    with registry(faults=[Fault("^/$", status=200, body=answer)]) as ecr:
        found = await ecr_credentials(KEYS, "eu-west-1", endpoint=f"http://{ecr.address}/", timeout_s=10)
    assert (found.username, found.password.get_secret_value()) == ("AWS", "the:password")
    (seen,) = ecr.seen
    assert seen.method == "POST"
    assert seen.headers["x-amz-target"] == "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"
    assert "/eu-west-1/ecr/aws4_request" in seen.headers["authorization"]


@pytest.mark.parametrize(
    ("status", "body", "reason", "said"),
    [
        (
            400,
            b'{"__type":"com.amazon#UnrecognizedClientException","message":"AKIDEXAMPLE"}',
            "PERMISSION_DENIED",
            "UnrecognizedClient",
        ),
        (403, b"{}", "PERMISSION_DENIED", "403"),
        (500, b"no json", "DATA_LOSS", "500"),
        (200, b"{}", "DATA_LOSS", "without a password"),
        (200, b'{"authorizationData":[{"authorizationToken":"%%%"}]}', "DATA_LOSS", "without a password"),
        (200, b'{"authorizationData":[{"authorizationToken":"QVdT"}]}', "DATA_LOSS", "without a password"),
        (200, b"[" * 100_000, "DATA_LOSS", "without a password"),
        (200, b"x" * (1 << 21), "DATA_LOSS", "longer than"),
    ],
)
async def test_a_refusal_of_aws_is_told_without_the_keys(status: int, body: bytes, reason: str, said: str) -> None:
    with registry(faults=[Fault("^/$", status=status, body=body)]) as ecr, pytest.raises(RegistryError) as refusal:
        await ecr_credentials(KEYS, "us-east-1", endpoint=f"http://{ecr.address}/", timeout_s=10)
    assert refusal.value.reason is Reason(reason)
    assert said in refusal.value.message
    assert "AKIDEXAMPLE" not in refusal.value.message
    assert SECRET not in refusal.value.message


@pytest.mark.parametrize("region", ["", "us-east-1.evil.example", "us-east-1/", "x@evil", "US-EAST-1", "us east"])
async def test_what_is_no_region_is_asked_nothing(region: str) -> None:
    """The region becomes a part of the address that the signed request goes to."""
    with pytest.raises(RegistryError, match="no region"):
        await ecr_credentials(KEYS, region, timeout_s=10)


async def test_an_aws_that_is_away_is_told() -> None:
    with registry() as ecr:
        endpoint = f"http://{ecr.address}/"
    with pytest.raises(RegistryError) as failure:
        await ecr_credentials(KEYS, "us-east-1", endpoint=endpoint, timeout_s=10)
    assert failure.value.reason is Reason.UNAVAILABLE
