"""Image name RPCs: publish an image under a name, find it by that, list names and their history, and delete one."""

import re
from collections.abc import Callable
from typing import Any

from google.protobuf import empty_pb2
from modal_proto import api_pb2

from workbench.local_cloud.base.errors import CloudError, Reason, invalid, not_found
from workbench.local_cloud.images.names import ImageNames, Reference, parse
from workbench.local_cloud.store.names import DEFAULT_ENVIRONMENT, Objects

_BY = "local"  # the one user
_PAGE = 100  # the SDK's
_MAX_PAGE = 1000
_MAX_PREFIX = 256
_NUMBER = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)


class ImageNameRpcs:
    """Handles the image name RPCs. A name is of one environment, the default one if the caller says none."""

    def __init__(self, names: ImageNames, objects: Objects, *, require: Callable[[str], None]) -> None:
        """`require` raises CloudError for the id of an image that cannot be used: unknown, failed, not yet built."""
        self._names = names
        self._objects = objects
        self._require = require

    async def ImagePublish(self, request: api_pb2.ImagePublishRequest, context: Any) -> api_pb2.ImagePublishResponse:
        """Let a name mean a built image from now on; what it meant before stays in its history.

        Raises CloudError: INVALID_ARGUMENT for a bad name, NOT_FOUND for an unknown environment or image,
        FAILED_PRECONDITION for an image that is not built.
        """
        if request.allow_public:
            raise invalid("Public images are not implemented by the local cloud, which has one user: publish it as is.")
        environment_id, asked = self._place(request.tag, request.environment_name)
        self._require(request.image_id)
        made = self._names.publish(environment_id, asked.name, request.image_id, by=_BY)
        return api_pb2.ImagePublishResponse(image_id=made.image_id, revision_id=made.revision_id)

    async def ImageGetByTag(self, request: api_pb2.ImageGetByTagRequest, context: Any) -> api_pb2.ImageGetByTagResponse:
        """Find the image that a name means; raises CloudError NOT_FOUND, also when that image is gone."""
        environment_id, asked = self._place(request.tag, request.environment_name)
        found = self._names.newest(environment_id, asked.name)
        if found is None:
            raise not_found(
                f"Image '{asked.name}' not found in environment '{asked.environment}': publish one under this name."
            )
        try:
            self._require(found.image_id)
        except CloudError as error:
            if error.reason not in (Reason.NOT_FOUND, Reason.FAILED_PRECONDITION):
                raise
            raise not_found(
                f"Image '{asked.name}' is {found.image_id}, which is not there any more, or not with all its files: "
                "publish another one under this name."
            ) from None
        return api_pb2.ImageGetByTagResponse(image_id=found.image_id)

    async def ImageListTags(self, request: api_pb2.ImageListTagsRequest, context: Any) -> api_pb2.ImageListTagsResponse:
        """List an environment's names with their tags, in pages; a page's token is its last name."""
        environment = request.environment_name or DEFAULT_ENVIRONMENT
        environment_id = self._objects.environment_id(environment)
        if len(request.tag_prefix) > _MAX_PREFIX:
            raise invalid(f"The beginning of a name has at most {_MAX_PREFIX} characters.")
        after = parse(request.page_token).name if request.page_token else ""
        limit = _limit(request.max_objects)
        found = self._names.listed(
            environment_id,
            prefix=request.tag_prefix.removeprefix(f"{environment}/"),
            image_id=request.image_id,
            after=after,
            limit=limit + 1,
        )
        return api_pb2.ImageListTagsResponse(
            items=[
                api_pb2.ImageListTagsItem(
                    tag=f"{environment}/{each.name}",
                    image_id=each.image_id,
                    revision_id=each.revision_id,
                    created_at=each.created_at,
                    updated_at=each.published_at,
                    last_published_by=each.published_by,
                )
                for each in found[:limit]
            ],
            next_page_token=found[limit - 1].name if len(found) > limit else "",
            environment_name=environment,
        )

    async def ImageTagRevisions(
        self, request: api_pb2.ImageTagRevisionsRequest, context: Any
    ) -> api_pb2.ImageTagRevisionsResponse:
        """List what a name has meant, the newest first, in pages; empty for a name that nothing was published under."""
        environment_id, asked = self._place(request.tag, request.environment_name)
        if request.page_token and not _NUMBER.fullmatch(request.page_token):
            raise invalid(f"page_token must be one of this list's, not {request.page_token[:50]!r}.")
        limit = _limit(request.max_objects)
        before = int(request.page_token or 0)
        found = self._names.revisions(environment_id, asked.name, before=before, limit=limit + 1)
        return api_pb2.ImageTagRevisionsResponse(
            items=[
                api_pb2.ImageTagRevisionsItem(
                    image_id=each.image_id,
                    revision_id=each.revision_id,
                    created_at=each.published_at,
                    published_by=each.published_by,
                )
                for each in found[:limit]
            ],
            next_page_token=str(found[limit - 1].number) if len(found) > limit else "",
            tag=f"{asked.environment}/{asked.name}",
            environment_name=asked.environment,
        )

    async def ImageNameDelete(self, request: api_pb2.ImageNameDeleteRequest, context: Any) -> empty_pb2.Empty:
        """Forget a name and its history; the images stay. Raises CloudError NOT_FOUND."""
        environment_id, asked = self._place(request.tag, "")
        if not self._names.delete(environment_id, asked.name):
            raise not_found(f"Image '{asked.name}' not found in environment '{asked.environment}'.")
        return empty_pb2.Empty()

    def _place(self, tag: str, environment: str) -> tuple[str, Reference]:
        """Return the id of the environment that a name is of, and the name in full."""
        asked = parse(tag, environment=environment or DEFAULT_ENVIRONMENT)
        return self._objects.environment_id(asked.environment), asked


def _limit(asked: int) -> int:
    return min(asked or _PAGE, _MAX_PAGE)
