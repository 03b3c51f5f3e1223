"""HTTP routes for the history of volumes, which Modal's protocol does not have. JSON, except for file contents."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from workbench.local_cloud.base.errors import not_found
from workbench.local_cloud.server.callers import Authenticator
from workbench.local_cloud.server.contents import content_response
from workbench.local_cloud.server.http_routes import for_clients
from workbench.local_cloud.store.content import ContentStore
from workbench.local_cloud.volumes.commit_history import History
from workbench.local_cloud.volumes.committed import CommittedVolumes, Entry, Removal, clean
from workbench.local_cloud.volumes.working_copies import WorkingCopy

MAX_COMMITS = 1000
MAX_WORKING_BYTES = 8 * 1024 * 1024  # of an uncommitted file; a larger one is cut, and whole once it is committed


class _Question(BaseModel):
    """A request's query parameters; `path` is relative to the volume, "" means the whole volume.

    `base`, `head` and `commit` are commits' numbers, 0 when not given. `holder` is a sandbox's or container's id.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str = ""
    limit: int = Field(100, ge=1, le=MAX_COMMITS)
    base: int = Field(0, ge=0)
    head: int = Field(0, ge=0)
    commit: int = Field(0, ge=0)
    holder: str = ""


@dataclass(frozen=True)
class Uncommitted:
    """What one mount holds that is not committed: how many files, their bytes, and the paths that differ.

    `holder` is the id of the sandbox or container.
    """

    holder: str
    mount_path: str
    sub_path: str
    files: int
    size: int
    paths: tuple[str, ...]


class HistoryRoutes:
    """Serves the history of the default environment's volumes, by their names."""

    def __init__(
        self,
        authenticator: Authenticator,
        committed: CommittedVolumes,
        content: ContentStore,
        *,
        volume_id: Callable[[str], str],
        uncommitted: Callable[[str], Awaitable[list[Uncommitted]]],
        working: Callable[[str, str], list[WorkingCopy]],
    ) -> None:
        """Take the parts that the routes need.

        `volume_id` returns the id of a volume's name; `uncommitted` scans every mount of a volume; `working` returns
        the working copies of a volume that a holder has mounted.
        """
        self._authenticator = authenticator
        self._committed = committed
        self._content = content
        self._history = History(committed)
        self._volume_id = volume_id
        self._uncommitted = uncommitted
        self._working = working
        self.routes = [
            Route("/history/{volume}/commits", self._answering(self._commits)),
            Route("/history/{volume}/diff", self._answering(self._diff)),
            Route("/history/{volume}/versions", self._answering(self._versions)),
            Route("/history/{volume}/content", self._answering(self._file)),
            Route("/history/{volume}/uncommitted", self._answering(self._mounts)),
            Route("/history/{volume}/working", self._answering(self._working_file)),
            Route("/history/{volume}/restore", self._answering(self._restore), methods=["POST"]),
        ]

    def _answering(
        self, answer: Callable[[str, _Question], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            question = _Question.model_validate(dict(request.query_params))
            return await answer(self._volume_id(request.path_params["volume"]), question)

        return for_clients(self._authenticator, endpoint)

    async def _commits(self, volume_id: str, question: _Question) -> Response:
        found = self._history.commits(volume_id, clean(question.path), limit=question.limit)
        return JSONResponse(
            [{**asdict(commit), "changes": [_change(change) for change in changes]} for commit, changes in found]
        )

    async def _diff(self, volume_id: str, question: _Question) -> Response:
        head = question.head or self._committed.head(volume_id)
        changes = self._history.diff(volume_id, clean(question.path), question.base, head)
        return JSONResponse(
            [
                {
                    "path": change.path,
                    "what": change.what,
                    "before": _facts(change.before),
                    "after": _facts(change.after),
                }
                for change in changes
            ]
        )

    async def _versions(self, volume_id: str, question: _Question) -> Response:
        touching = self._committed.touching(volume_id, clean(question.path), limit=10_000)
        commits = {commit.number: commit for commit in touching}
        return JSONResponse(
            [
                {**asdict(commits[number]), "entry": _facts(entry)}
                for number, entry in self._committed.versions(volume_id, clean(question.path))
                if number in commits
            ]
        )

    async def _file(self, volume_id: str, question: _Question) -> Response:
        number = question.commit or self._committed.head(volume_id)
        entry = self._history.file_at(volume_id, clean(question.path), number)
        return content_response(self._content, entry.sha256)

    async def _mounts(self, volume_id: str, question: _Question) -> Response:
        below = clean(question.path)
        found = await self._uncommitted(volume_id)
        scoped = [mount for mount in found if not below or (mount.sub_path + "/").startswith(below + "/")]
        return JSONResponse([asdict(mount) for mount in scoped])

    async def _working_file(self, volume_id: str, question: _Question) -> Response:
        path = clean(question.path)
        for copy in self._working(volume_id, question.holder):
            prefix = copy.sub_path + "/" if copy.sub_path else ""
            if path.startswith(prefix):
                data = await copy.read(path.removeprefix(prefix), max_bytes=MAX_WORKING_BYTES)
                if data is not None:
                    return Response(data, media_type="application/octet-stream")
        raise not_found(
            f"There is no regular file '{path}' in a mount of this volume in '{question.holder[:64]}', or it has ended."
        )

    async def _restore(self, volume_id: str, question: _Question) -> Response:
        if not question.commit:
            raise not_found("`commit` is missing: give the number of the commit to restore.")
        number = await asyncio.to_thread(self._history.restore, volume_id, clean(question.path), question.commit)
        return JSONResponse({"commit": number})


def _facts(entry: Entry | None) -> Mapping[str, Any] | None:
    return None if entry is None else asdict(entry)


def _change(change: Entry | Removal) -> dict[str, Any]:
    if isinstance(change, Removal):
        return {"path": change.path, "removed": True, "kind": None, "size": 0}
    return {"path": change.path, "removed": False, "kind": change.kind, "size": change.size}
