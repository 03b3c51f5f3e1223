"""Images by id: the config of each, the directory with its files, and the builds that run.

A layer's cache key is made of the image below it, its definition, its files, the values of its secrets, and the
packages that it takes from the cloud's environment. Layers with the same key are built once. Rows and directories
outlive the cloud's process. Builds do not: one that was interrupted counts as failed, and starts again on request.
"""

import asyncio
import hmac
import json
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from sqlite3 import Row

import structlog
from modal_proto import api_pb2

from workbench.local_cloud.apps.app_logs import LogRow, Origin, Wanted
from workbench.local_cloud.base.errors import CloudError, failed_precondition, invalid, not_found
from workbench.local_cloud.base.guest_directories import remove_tree
from workbench.local_cloud.base.ids import new_id
from workbench.local_cloud.images import layouts, rooted_steps
from workbench.local_cloud.images.build_functions import BuildFunctions
from workbench.local_cloud.images.build_logs import BuildLog, Line
from workbench.local_cloud.images.build_sandbox import LAYER_DEADLINE_S, BuildFailedError
from workbench.local_cloud.images.builder import Builder
from workbench.local_cloud.images.dockerfile import NeedsRootError, RefusedError
from workbench.local_cloud.images.own_roots import OwnRoots
from workbench.local_cloud.images.plans import Adopt, CallFunction, ImageConfig, Plan, Step
from workbench.local_cloud.images.pulls import Puller, RegistryAccess
from workbench.local_cloud.images.room import while_there_is_room
from workbench.local_cloud.images.rooted_builder import RootedBuilder
from workbench.local_cloud.images.steps import interpret
from workbench.local_cloud.registry.blobs import BlobStore
from workbench.local_cloud.rootfs.layers import Layers
from workbench.local_cloud.store.damage import is_disk_full
from workbench.local_cloud.store.database import Database

_log = structlog.get_logger(__name__)

BUILDING, BUILT, FAILED = "building", "built", "failed"
MAX_BUILDS = 2  # at a time: an installer uses all of the machine's cores
ABANDONED_S = 30.0  # after the last client that waited for a build has gone: the SDK asks again at once
_STOP_S = 10.0
_FOLLOW_S = 60.0
NOTE_S, _NOTE_AGAIN_S = 10.0, 0.1
_NEEDS_ROOT = "USER root:0"  # what it names is root, but not in the form that this machine's system has for it
_INTERRUPTED = "The build was interrupted: the local cloud ended. Deploy again."
_ABANDONED = "The build was ended: nobody waited for it any more. Deploy again."
_UNNOTED = (
    "The end of the build could not be noted: the local cloud's disk was full (RESOURCE_EXHAUSTED). Make room, and "
    "deploy again."
)
_UNKNOWN = "The build failed inside the local cloud: cloud.log in its state directory has the cause."
_SLEEP = ["sleep", "172800"]
_KEY_VERSION = 5  # to be raised when the same definition is built differently from then on

_DDL = """
CREATE TABLE IF NOT EXISTS image_layers (
  image_id TEXT PRIMARY KEY, key TEXT UNIQUE, state TEXT NOT NULL, parents TEXT NOT NULL, meaning TEXT NOT NULL,
  directory TEXT NOT NULL, failure TEXT NOT NULL, log TEXT NOT NULL, started_at REAL NOT NULL, finished_at REAL NOT NULL
);
"""


@dataclass(frozen=True)
class Image:
    """An image: its state, its config, and the ids of the images below it, of which the first is its base.

    `directory` is None when nothing had to be built. `failure` is why the build failed, else empty. Times are Unix
    seconds, `finished_at` 0 during the build.
    """

    image_id: str
    state: str
    config: ImageConfig
    directory: Path | None
    failure: str
    parents: tuple[str, ...]
    started_at: float
    finished_at: float

    @property
    def python(self) -> str:
        """The path of the image's own Python as guests see it, empty when it has none."""
        if self.is_rooted:
            return self.config.guest_python
        return layouts.PYTHON if self.config.interpreter else ""

    @property
    def is_rooted(self) -> bool:
        """Whether the image has a root file system of its own, instead of this machine's system."""
        return bool(self.config.layers)

    def binds(self, split: Iterable[str]) -> list[tuple[Path, str]]:
        """Return what to bind read-only into a guest, as (host path, path inside).

        `split` are paths inside at which other things will be mounted.
        """
        if self.directory is None:
            return []
        own = (*split, *self.config.directories)
        return list(layouts.binds(self.directory, prefix=self.config.interpreter_prefix, split=own))

    def env(self) -> dict[str, str]:
        """Return the image's environment variables; its own programs come first on PATH."""
        if self.is_rooted:
            return rooted_steps.own_path(self.config)
        return self.config.env if self.directory is None else {"PATH": layouts.IMAGE_PATH, **self.config.env}

    def command(self, arguments: list[str]) -> list[str]:
        """Return the argv that a sandbox runs: the image's entrypoint with `arguments`, or with its CMD if none.

        Empty for the sleep that the SDK's debian_slim has as its CMD: a sandbox stays without a program, too.
        """
        own = list(arguments or self.config.cmd)
        nothing = not arguments and not self.config.entrypoint and own == _SLEEP
        return [] if nothing else [*self.config.entrypoint, *own]


class Images:
    """Finds, builds and stores images; their directories are below `root`."""

    def __init__(
        self,
        database: Database,
        root: Path,
        *,
        layers: Layers,
        blobs: BlobStore,
        seccomp: bytes,
        lay_out: Callable[[list[str], Path], None],
        mount_checksum: Callable[[str], str],
        secrets: Callable[[list[str]], dict[str, str]],
        functions: Callable[[], BuildFunctions],
        require_whole: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Mark builds that an earlier process did not finish as failed.

        `blobs` holds what was pulled from registries, `layers` the root file systems of images, and `seccomp` is the
        filter for programs that run on them during a build. `lay_out` copies the files of mounts into a directory,
        `mount_checksum` returns that of a mount's contents, `secrets` resolves secrets' ids into environment variables,
        and `functions` returns what calls the functions of builds. `require_whole` raises CloudError for an image's id
        whose files are not all in its layers.
        """
        self._db = database
        self._root = root
        self.layers = layers
        self.seccomp = seccomp
        self._builder = Builder(root, lay_out=lay_out)
        self._functions = functions
        self._rooted = RootedBuilder(
            root,
            layers,
            builder=self._builder,
            puller=Puller(blobs, layers),
            functions=functions,
            seccomp=seccomp,
        )
        self._mount_checksum = mount_checksum
        self._secrets = secrets
        self._require_whole = require_whole
        self._builds: dict[str, asyncio.Task[None]] = {}
        self._logs: dict[str, BuildLog] = {}
        self._followers: Counter[str] = Counter()
        self._slots = asyncio.Semaphore(MAX_BUILDS)
        database.script(_DDL)
        database.execute("UPDATE image_layers SET state=?, failure=? WHERE state=?", (FAILED, _INTERRUPTED, BUILDING))

    async def aclose(self) -> None:
        """Cancel all builds and wait for the end of their processes. Idempotent."""
        builds = list(self._builds.values())
        for task in builds:
            task.cancel()
        if builds:
            await asyncio.wait(builds, timeout=_STOP_S)

    def get(self, image_id: str) -> Image:
        """Return an image by its id; raises CloudError NOT_FOUND."""
        row = self._db.one("SELECT * FROM image_layers WHERE image_id=?", (image_id,))
        if row is None:
            raise not_found(f"Image {image_id[:100]} not found.")
        return self._image(row)

    def whole(self, image_id: str) -> Image:
        """Return an image on which functions and layers can stand: a directory's snapshot is none.

        Raises CloudError as `built` does, and INVALID_ARGUMENT, or NOT_FOUND for a snapshot that has expired.
        """
        self._require_whole(image_id)
        return self.built(image_id)

    def built(self, image_id: str) -> Image:
        """Return an image that can be run.

        Raises CloudError: NOT_FOUND, or FAILED_PRECONDITION when its build failed, still runs, or its files are gone.
        """
        image = self.get(image_id)
        if image.state != BUILT:
            raise failed_precondition(image.failure or f"Image {image_id} is still being built.")
        if image.directory is not None and not image.directory.is_dir():
            raise failed_precondition(f"The files of image {image_id} are missing: deploy again to build it anew.")
        if not all(map(self.layers.has, image.config.layers)):
            raise failed_precondition(f"The files of image {image_id} are missing: deploy again to build it anew.")
        return image

    def delete(self, image_id: str) -> None:
        """Delete an image's row; `workbench cloud gc` removes its files. Raises CloudError NOT_FOUND."""
        self.get(image_id)
        self._db.execute("DELETE FROM image_layers WHERE image_id=?", (image_id,))

    async def get_or_create(
        self,
        image: api_pb2.Image,
        *,
        function_id: str = "",
        builder_version: str = "",
        force_build: bool = False,
        ignore_cache: bool = False,
        only_look: bool = False,
    ) -> str:
        """Find a layer or begin to build it, and return its image's id. A layer whose build failed is built again.

        With `only_look` nothing is built: it raises CloudError FAILED_PRECONDITION for what is not built, or still is.

        `force_build` builds it in any case, and later calls find the new image. `ignore_cache` alone also builds it in
        any case, but later calls find the image that was there before. `function_id` is the function that a layer of
        `run_function` calls, `builder_version` what a new image's config says of that. Raises CloudError for an image
        below it that cannot be run, and for an unknown mount, secret or function; a layer that cannot be built has its
        reason in `failure`.
        """
        parents = {base.docker_tag: self.built(base.image_id) for base in image.base_images}
        secrets = self._secrets(list(image.secret_ids))
        parent_key = [(tag, parent.image_id) for tag, parent in parents.items()]
        checksum = self._mount_checksum(image.context_mount_id) if image.context_mount_id else ""
        configs = {tag: parent.config for tag, parent in parents.items()}
        hidden, deadline_s = list(secrets.values()), LAYER_DEADLINE_S
        if image.HasField("build_function"):
            function = self._functions().get(function_id)
            if function.image_id not in {parent.image_id for parent in parents.values()}:
                raise invalid(f"The function {function_id[:64]} does not run on the image below this layer.")
            hidden += function.secrets.values()
            deadline_s += function.timeout_s
        refusal, plan = "", Plan(ImageConfig())
        parent = next(iter(parents.values()), None)
        files = parent.directory / layouts.TREE if parent is not None and parent.directory is not None else None
        try:
            plan = await self._interpreted(image, configs, secrets, files, function_id)
        except RefusedError as error:
            refusal = str(error)
        below = parent.config.builder_version if parent is not None else ""
        plan.config = replace(plan.config, builder_version=builder_version or below)
        parent_key.append(("", plan.config.builder_version))
        key: str | None = _key(self.layers.private, image, parent_key, checksum, secrets, plan.steps)
        row = self._db.one("SELECT * FROM image_layers WHERE key=?", (key,))
        if row is not None and not force_build and not ignore_cache:
            found = self._image(row)
            gone = found.directory is not None and not found.directory.is_dir()
            gone = gone or not all(map(self.layers.has, found.config.layers))
            if (found.state == BUILDING and not only_look) or (found.state == BUILT and not gone):
                return found.image_id
            image_id = found.image_id
        else:
            image_id = new_id("im")
            if ignore_cache and not force_build:
                key = None
        if only_look:
            raise failed_precondition("This layer is not built yet.")
        directory = parent.directory.name if parent is not None and parent.directory is not None else ""
        directory = "" if plan.rooted else directory
        ids = json.dumps([base.image_id for base in parents.values()])
        with self._db.transaction():
            self._db.execute("UPDATE image_layers SET key=NULL WHERE key=? AND image_id<>?", (key, image_id))
            self._db.execute(
                "INSERT OR REPLACE INTO image_layers VALUES (?,?,?,?,?,?,?,?,?,?)",
                (image_id, key, BUILDING, ids, plan.config.to_json(), directory, "", "", time.time(), 0.0),
            )
        log = self._logs[image_id] = BuildLog(hidden=hidden)
        for line in plan.log:
            log.add(f"{line}\n", 1)
        if refusal or not plan.steps:
            self._finish(image_id, plan.config, directory, log.redacted(refusal))
        else:
            task = asyncio.create_task(
                self._build(
                    image_id, image, plan, parent, secrets, log, anew=force_build or ignore_cache, deadline_s=deadline_s
                )
            )
            self._builds[image_id] = task
            task.add_done_callback(lambda _: self._builds.pop(image_id, None))
        return image_id

    async def on_top(self, image_id: str, layer: str, *, label: str) -> str:
        """Make an image with the config of another one and a layer on top of its layers; returns its id.

        `label` is a line for the image's log. Raises CloudError as `built` does, LayerError, OSError.
        """
        below = self.built(image_id)
        kept = await OwnRoots(self.layers).kept(below.config, below.directory)
        config = replace(kept, layers=(layer, *await self.layers.squashed(kept.layers)))
        new = new_id("im")
        log = self._logs[new] = BuildLog(hidden=())
        log.add(f"{label}\n", 1)
        self._db.execute(
            "INSERT INTO image_layers VALUES (?,?,?,?,?,?,?,?,?,?)",
            (new, None, BUILDING, json.dumps([image_id]), config.to_json(), "", "", "", time.time(), 0.0),
        )
        self._finish(new, config, "", "")
        return new

    async def rooted(self, image_id: str) -> Image:
        """Return an image with the same files and a root file system of its own: itself, or one that is built.

        Raises CloudError as `built` does.
        """
        image = self.built(image_id)
        if image.is_rooted:
            return image
        definition = api_pb2.Image(dockerfile_commands=["FROM base", _NEEDS_ROOT])
        definition.base_images.add(docker_tag="base", image_id=image_id)
        made = await self.get_or_create(definition)
        while self.get(made).state == BUILDING:
            async for _ in self.follow(made, after=0, timeout_s=_FOLLOW_S):
                pass
        return self.built(made)

    async def _interpreted(
        self,
        image: api_pb2.Image,
        parents: Mapping[str, ImageConfig],
        secrets: Mapping[str, str],
        files: Path | None,
        function_id: str,
    ) -> Plan:
        """Read a layer: for this machine's system if that has all it needs, else for a root file system of its own.

        Raises RefusedError.
        """
        if not any(parent.layers for parent in parents.values()):
            try:
                return await asyncio.to_thread(interpret, image, parents, secrets=secrets, files=files)
            except NeedsRootError as error:
                if problem := await self.layers.problem():
                    raise RefusedError(
                        f"{error} It needs a root file system of its own, which cannot be made here: {problem}"
                    ) from error
        return await asyncio.to_thread(rooted_steps.interpret, image, parents, secrets=secrets, function_id=function_id)

    async def _build(
        self,
        image_id: str,
        image: api_pb2.Image,
        plan: Plan,
        parent: Image | None,
        secrets: Mapping[str, str],
        log: BuildLog,
        *,
        anew: bool,
        deadline_s: float,
    ) -> None:
        directory = self._root / image_id
        config, failure = plan.config, ""
        try:
            async with self._slots, asyncio.timeout(deadline_s):
                await asyncio.to_thread(remove_tree, directory)  # left by a build that was killed after its last step
                context_files = {file.filename: file.data for file in image.context_files}
                if plan.rooted:
                    building = self._rooted.build(
                        plan,
                        image_id=image_id,
                        parent=parent.directory if parent is not None else None,
                        context_mount=image.context_mount_id,
                        context_files=context_files,
                        log=log.add,
                        access=RegistryAccess.of(image, self._secrets),
                        anew=anew,
                    )
                else:
                    building = self._builder.build(
                        plan,
                        directory=directory,
                        parent=parent.directory if parent is not None else None,
                        context_mount=image.context_mount_id,
                        context_files=context_files,
                        secrets=secrets,
                        log=log.add,
                    )
                made = await while_there_is_room(self._root, building)
                config = replace(made, builder_version=plan.config.builder_version)
        except asyncio.CancelledError as cancelled:
            self._finish(image_id, config, "", _ABANDONED if _ABANDONED in cancelled.args else _INTERRUPTED)
            raise
        except TimeoutError:
            failure = f"The layer was not built within {deadline_s / 60:.0f} minutes: split it, or try again."
        except Exception as error:  # noqa: BLE001  # readers that follow the build must learn that it has ended
            failure = log.redacted(_told(error))
            if failure == _UNKNOWN:
                _log.error("image.build_failed", image_id=image_id, exc_info=error)
        await self._finish_soon(image_id, config, "" if failure or plan.rooted else image_id, failure)

    def _finish(self, image_id: str, config: ImageConfig, directory: str, failure: str) -> None:
        """Note the end of a build. It counts as failed if that raises what the database raises, see `_image`."""
        with self._ending(image_id, failure):
            self._note(image_id, config, directory, failure)

    async def _finish_soon(self, image_id: str, config: ImageConfig, directory: str, failure: str) -> None:
        """Note the end of a build, with some patience: what has filled the disk may be just going."""
        end = time.monotonic() + NOTE_S
        with self._ending(image_id, failure):
            while True:
                try:
                    self._note(image_id, config, directory, failure)
                except (OSError, sqlite3.Error) as error:
                    if not is_disk_full(error, self._root) or time.monotonic() > end:
                        _log.error("image.end_not_noted", image_id=image_id, exc_info=error)
                        return
                    await asyncio.sleep(_NOTE_AGAIN_S)
                else:
                    return

    @contextmanager
    def _ending(self, image_id: str, failure: str) -> Iterator[None]:
        if failure:
            self._logs[image_id].add(f"refused: {failure}\n", 2)
        try:
            yield
        finally:
            self._logs.pop(image_id).close()

    def _note(self, image_id: str, config: ImageConfig, directory: str, failure: str) -> None:
        state, log = FAILED if failure else BUILT, self._logs[image_id].to_json()
        self._db.execute(
            "UPDATE image_layers SET state=?, meaning=?, directory=?, failure=?, log=?, finished_at=? WHERE image_id=?",
            (state, config.to_json(), directory, failure, log, time.time(), image_id),
        )

    async def follow(self, image_id: str, *, after: int, timeout_s: float) -> AsyncIterator[list[Line]]:
        """Yield the lines of a build's log after the first `after` ones, as they come.

        Ends with the build, or when no line came until `timeout_s` seconds from now. A build that nobody follows any
        more is ended some time later.
        """
        self._followers[image_id] += 1
        try:
            async with aclosing(self._followed(image_id, after, time.monotonic() + timeout_s)) as found:
                async for lines in found:
                    yield lines
        finally:
            self._followers[image_id] -= 1
            if not self._followers[image_id]:
                del self._followers[image_id]
                asyncio.get_running_loop().call_later(ABANDONED_S, self._end_abandoned, image_id)

    def _end_abandoned(self, image_id: str) -> None:
        build = self._builds.get(image_id)
        if build is not None and image_id not in self._followers:
            build.cancel(_ABANDONED)

    async def _followed(self, image_id: str, after: int, deadline: float) -> AsyncGenerator[list[Line], None]:
        while (log := self._logs.get(image_id)) is not None:
            lines = log.lines[after:]
            if lines:
                after += len(lines)
                yield lines
            elif not await log.changed(deadline - time.monotonic()):
                return
        row = self._db.one("SELECT log FROM image_layers WHERE image_id=?", (image_id,))
        rest = BuildLog.from_json(row["log"]).lines[after:] if row is not None else []
        if rest:
            yield rest

    def log_rows(self, image_id: str, wanted: Wanted) -> list[LogRow]:
        """Return the log of an image's build as rows of an app's log; raises CloudError NOT_FOUND."""
        self.get(image_id)
        row = self._db.one("SELECT log FROM image_layers WHERE image_id=?", (image_id,))
        log = self._logs.get(image_id) or BuildLog.from_json(row["log"] if row is not None else "")
        return [
            LogRow(index, line.at_ns / 1e9, line.fd, Origin(), line.text)
            for index, line in enumerate(log.lines, 1)
            if wanted.since <= line.at_ns / 1e9 and (not wanted.until or line.at_ns / 1e9 < wanted.until)
            if wanted.search in line.text
        ]

    def _image(self, row: Row) -> Image:
        lost = row["state"] == BUILDING and row["image_id"] not in self._logs
        return Image(
            image_id=row["image_id"],
            state=FAILED if lost else row["state"],
            config=ImageConfig.from_json(row["meaning"]),
            directory=self._root / row["directory"] if row["directory"] else None,
            failure=_UNNOTED if lost else row["failure"],
            parents=tuple(json.loads(row["parents"])),
            started_at=row["started_at"],
            finished_at=row["finished_at"],
        )


def _told(error: Exception) -> str:
    if isinstance(error, CloudError):
        return f"{error.message} ({error.reason})"
    return str(error) if isinstance(error, (RefusedError, BuildFailedError)) else _UNKNOWN


def _key(
    private: bytes,
    image: api_pb2.Image,
    parents: list[tuple[str, str]],
    mount_checksum: str,
    secrets: Mapping[str, str],
    steps: list[Step],
) -> str:
    """Return a layer's cache key. It has the contents of mounts and secrets, whose ids the SDK makes anew each time.

    `private` is known to this state directory's cloud alone: the key is stored, and must not confirm a guessed secret.
    """
    parts = [
        _KEY_VERSION,
        sys.version,
        parents,
        list(image.dockerfile_commands),
        sorted((file.filename, hmac.digest(private, file.data, "sha256").hex()) for file in image.context_files),
        sorted(image.build_args.items()),
        mount_checksum,
        sorted(secrets.items()),
        [step.packages for step in steps if isinstance(step, Adopt)],
        [step.parts() for step in steps if isinstance(step, CallFunction)],
        [image.HasField("build_function"), image.gpu_config.SerializeToString(deterministic=True).hex()],
    ]
    return hmac.new(private, json.dumps(parts).encode(), "sha256").hexdigest()
