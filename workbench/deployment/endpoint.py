"""How to call an endpoint: its address and the secret that its callers must send."""

from pydantic import BaseModel, ConfigDict, HttpUrl, SecretStr, TypeAdapter, ValidationError, field_validator

_HTTP: TypeAdapter[HttpUrl] = TypeAdapter(HttpUrl)


class Endpoint(BaseModel):
    """A deployed `/generate`. The secret is masked wherever the object is printed."""

    model_config = ConfigDict(frozen=True)

    url: str
    secret: SecretStr

    @field_validator("url")
    @classmethod
    def _http(cls, value: str) -> str:
        try:
            _HTTP.validate_python(value)
        except ValidationError:
            raise ValueError("must be an http or https URL") from None
        return value.rstrip("/")
