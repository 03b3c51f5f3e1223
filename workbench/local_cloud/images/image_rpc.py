"""Image RPCs: find or build a layer, follow its build's log, and look images up."""

import platform
import re
import time
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf import empty_pb2, timestamp_pb2
from modal_proto import api_pb2

from workbench.local_cloud.base import host
from workbench.local_cloud.base.errors import CloudError, invalid
from workbench.local_cloud.images.images import BUILDING, BUILT, Image, Images
from workbench.local_cloud.server.callers import metadata

ONLY_LOOK = "x-workbench-only-look"  # a header of callers who ask whether an image is built, and do not want it built
_MAX_WAIT_S = 60.0
_ARCHITECTURES = {"x86_64": api_pb2.ARCH_X86_64, "aarch64": api_pb2.ARCH_AARCH64}
_MAX_CHAIN = 1000
_VERSION = re.compile(r"[A-Za-z0-9.]{0,32}")
_ROUNDING_S = 0.001  # added to a build's end: the SDK asks for lines up to it, rounded to microseconds


class ImageRpcs:
    """Handles the image RPCs."""

    def __init__(self, images: Images) -> None:
        self._images = images

    async def ImageGetOrCreate(
        self, request: api_pb2.ImageGetOrCreateRequest, context: Any
    ) -> api_pb2.ImageGetOrCreateResponse:
        """Find one layer or begin to build it; when the answer has no result, the SDK follows the build.

        `existing_image_id` is ignored, as the SDK says of Modal: only the definition counts.
        """
        if request.image.arch not in (api_pb2.ARCH_UNSPECIFIED, _ARCHITECTURES.get(platform.machine())):
            raise invalid(
                f"Images can be built only for this machine's processor ({platform.machine()}): name no other one."
            )
        for base in request.image.base_images:
            self._images.whole(base.image_id)
        image_id = await self._images.get_or_create(
            request.image,
            function_id=request.build_function_id,
            builder_version=_builder_version(request.builder_version),
            force_build=request.force_build,
            ignore_cache=request.ignore_cache,
            only_look=ONLY_LOOK in metadata(context),
        )
        image = self._images.get(image_id)
        if image.state != BUILT:
            return api_pb2.ImageGetOrCreateResponse(image_id=image_id)
        return api_pb2.ImageGetOrCreateResponse(image_id=image_id, result=_result(image), metadata=_metadata(image))

    async def ImageJoinStreaming(
        self, request: api_pb2.ImageJoinStreamingRequest, context: Any
    ) -> AsyncIterator[api_pb2.ImageJoinStreamingResponse]:
        """Stream a build's log after `last_entry_id` as it grows, then the result.

        After the request's timeout the stream ends without a result, and the SDK asks again.
        """
        self._images.get(request.image_id)
        entry = _entry(request.last_entry_id)
        timeout_s = min(max(request.timeout, 0), _MAX_WAIT_S)
        async for lines in self._images.follow(request.image_id, after=entry, timeout_s=timeout_s):
            entry += len(lines)
            logs = [
                api_pb2.TaskLogs(
                    data=line.text,
                    file_descriptor=line.fd,  # type: ignore[arg-type]  # kept as the enum's number
                    timestamp=line.at_ns / 1e9,
                    timestamp_ns=line.at_ns,
                )
                for line in lines
            ]
            yield api_pb2.ImageJoinStreamingResponse(task_logs=logs, entry_id=str(entry))
        image = self._images.get(request.image_id)
        if image.state != BUILDING:
            yield api_pb2.ImageJoinStreamingResponse(
                result=_result(image), metadata=_metadata(image), entry_id=str(entry), eof=True
            )

    async def ImageFromId(self, request: api_pb2.ImageFromIdRequest, context: Any) -> api_pb2.ImageFromIdResponse:
        """Confirm that an image exists."""
        image = self._known(request.image_id, "Could not find image with ID")
        return api_pb2.ImageFromIdResponse(image_id=image.image_id, metadata=_metadata(image))

    async def ImageDelete(self, request: api_pb2.ImageDeleteRequest, context: Any) -> empty_pb2.Empty:
        """Delete an image."""
        self._known(request.image_id, "No Image with ID")
        self._images.delete(request.image_id)
        return empty_pb2.Empty()

    def _known(self, image_id: str, unknown: str) -> Image:
        """Return an image. The error for an unknown one begins with `unknown`, Modal's words in the same call."""
        try:
            return self._images.get(image_id)
        except CloudError as error:
            raise CloudError(error.reason, f"{unknown} {image_id[:100]}.") from None

    async def ImageBuildChainGet(
        self, request: api_pb2.ImageBuildChainGetRequest, context: Any
    ) -> api_pb2.ImageBuildChainGetResponse:
        """List an image and the images that it is built on, the base first."""
        chain = [self._images.get(request.image_id)]
        while chain[-1].parents and len(chain) < _MAX_CHAIN:
            chain.append(self._images.get(chain[-1].parents[0]))
        return api_pb2.ImageBuildChainGetResponse(
            build_steps=[
                api_pb2.ImageBuildStep(
                    image_id=image.image_id,
                    builder_app_id=image.image_id,  # where the SDK then asks for the log
                    started_at=_timestamp(image.started_at),
                    finished_at=_timestamp((image.finished_at or time.time()) + _ROUNDING_S),
                )
                for image in reversed(chain)
            ]
        )


def _entry(text: str) -> int:
    if not text:
        return 0
    if not text.isascii() or not text.isdigit() or len(text) > 12:
        raise invalid(f"last_entry_id must be empty or an entry_id of this log, not {text[:50]!r}.")
    return int(text)


def _builder_version(text: str) -> str:
    if not _VERSION.fullmatch(text):
        raise invalid(f"builder_version must be a version such as 2025.06, not {text[:50]!r}.")
    return text


def _timestamp(seconds: float) -> timestamp_pb2.Timestamp:
    stamp = timestamp_pb2.Timestamp()
    stamp.FromNanoseconds(int(seconds * 1e9))
    return stamp


def _result(image: Image) -> api_pb2.GenericResult:
    if image.failure:
        return api_pb2.GenericResult(
            status=api_pb2.GenericResult.GENERIC_STATUS_FAILURE, exception=image.failure, exitcode=1
        )
    return api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_SUCCESS)


def _metadata(image: Image) -> api_pb2.ImageMetadata:
    version = image.config.python
    full = platform.python_version() if version == host.OWN_PYTHON else version
    return api_pb2.ImageMetadata(
        python_version_info=f"Python {full}",
        workdir=image.config.workdir,
        image_builder_version=image.config.builder_version,
    )
