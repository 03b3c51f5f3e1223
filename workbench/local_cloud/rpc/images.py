"""Image RPCs: creating is interpreting, and joining a build replays its log."""

import platform
from collections.abc import AsyncIterator
from typing import Any

from modal_proto import api_pb2

from workbench.local_cloud.images import Images


class ImageRpcs:
    """Answers about images from their interpretation."""

    def __init__(self, images: Images) -> None:
        self._images = images

    async def ImageGetOrCreate(
        self, request: api_pb2.ImageGetOrCreateRequest, context: Any
    ) -> api_pb2.ImageGetOrCreateResponse:
        """Interpret the definition; an accepted image is built at once, a refused one fails when joined."""
        image_id = request.existing_image_id or self._images.create(request.image)
        meaning = self._images.get(image_id)
        if meaning.failure:
            return api_pb2.ImageGetOrCreateResponse(image_id=image_id)
        return api_pb2.ImageGetOrCreateResponse(
            image_id=image_id, result=_result(""), metadata=_metadata(meaning.workdir)
        )

    async def ImageJoinStreaming(
        self, request: api_pb2.ImageJoinStreamingRequest, context: Any
    ) -> AsyncIterator[api_pb2.ImageJoinStreamingResponse]:
        """Send the interpretation's log, then its result."""
        meaning = self._images.get(request.image_id)
        log = [
            api_pb2.TaskLogs(data=line + "\n", file_descriptor=api_pb2.FILE_DESCRIPTOR_STDOUT) for line in meaning.log
        ]
        if meaning.failure:
            log.append(
                api_pb2.TaskLogs(data=f"refused: {meaning.failure}\n", file_descriptor=api_pb2.FILE_DESCRIPTOR_STDERR)
            )
        if not request.last_entry_id:
            yield api_pb2.ImageJoinStreamingResponse(task_logs=log, entry_id="1")
        yield api_pb2.ImageJoinStreamingResponse(
            result=_result(meaning.failure), metadata=_metadata(meaning.workdir), entry_id="2", eof=True
        )

    async def ImageFromId(self, request: api_pb2.ImageFromIdRequest, context: Any) -> api_pb2.ImageFromIdResponse:
        """Confirm that an image exists."""
        meaning = self._images.get(request.image_id)
        return api_pb2.ImageFromIdResponse(image_id=request.image_id, metadata=_metadata(meaning.workdir))


def _result(failure: str) -> api_pb2.GenericResult:
    if failure:
        return api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_FAILURE, exception=failure)
    return api_pb2.GenericResult(status=api_pb2.GenericResult.GENERIC_STATUS_SUCCESS)


def _metadata(workdir: str | None) -> api_pb2.ImageMetadata:
    return api_pb2.ImageMetadata(python_version_info=f"Python {platform.python_version()}", workdir=workdir)
