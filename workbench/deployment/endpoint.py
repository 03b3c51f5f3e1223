"""How to call an endpoint: its address and the secret that its callers must send."""

from pydantic import BaseModel, ConfigDict, HttpUrl, SecretStr, TypeAdapter, ValidationError, field_validator

_HTTP: TypeAdapter[HttpUrl] = TypeAdapter(HttpUrl)


def check_url(url: str) -> str:
    """Return an http or https URL without slashes at its end; raises ValueError for anything else."""
    try:
        _HTTP.validate_python(url)
    except ValidationError:
        raise ValueError(f"'{url}' is no http or https URL") from None
    return url.rstrip("/")


class Endpoint(BaseModel):
    """A deployed `/generate`. The secret is masked wherever the object is printed."""

    model_config = ConfigDict(frozen=True)

    url: str
    secret: SecretStr

    @field_validator("url")
    @classmethod
    def _http(cls, value: str) -> str:
        return check_url(value)
