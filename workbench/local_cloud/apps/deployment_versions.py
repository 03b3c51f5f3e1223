"""The versions of deployed apps: the layout and definitions of each, so that one can be called or deployed again."""

import json
import time
from dataclasses import dataclass

from modal_proto import api_pb2

from workbench.local_cloud.apps.apps import App, Apps, no_function, secrets_of
from workbench.local_cloud.base.errors import CloudError, already_exists, failed_precondition, invalid, not_found
from workbench.local_cloud.base.ids import new_id
from workbench.local_cloud.store.database import Database

_DDL = """
CREATE TABLE IF NOT EXISTS deployments (
  app_id TEXT NOT NULL, version INTEGER NOT NULL, at REAL NOT NULL, tag TEXT NOT NULL, client_version TEXT NOT NULL,
  rolled_back_to INTEGER NOT NULL DEFAULT 0, function_ids TEXT NOT NULL, class_ids TEXT NOT NULL, tags TEXT NOT NULL,
  PRIMARY KEY (app_id, version)
);
CREATE TABLE IF NOT EXISTS deployed_functions (
  app_id TEXT NOT NULL, version INTEGER NOT NULL, function_id TEXT NOT NULL, definition_id TEXT NOT NULL,
  definition BLOB NOT NULL, PRIMARY KEY (app_id, version, function_id)
);
CREATE TABLE IF NOT EXISTS deployed_commits (
  app_id TEXT NOT NULL, version INTEGER NOT NULL, info BLOB NOT NULL, PRIMARY KEY (app_id, version)
);
CREATE TABLE IF NOT EXISTS pinned_functions (
  base_id TEXT NOT NULL, version INTEGER NOT NULL, function_id TEXT NOT NULL, PRIMARY KEY (base_id, version)
);
"""
_MAX_COMMIT_BYTES = 8192  # the SDK sends a few hundred: its texts have at most 255 characters each


@dataclass(frozen=True)
class Deployment:
    """One version of an app; `at` is in Unix seconds, `rolled_back_to` the version that it repeats (0: none).

    `commit` is that of the source code, None when it was in no git repository.
    """

    version: int
    at: float
    tag: str
    client_version: str
    rolled_back_to: int
    commit: api_pb2.CommitInfo | None = None


class Deployments:
    """Publishes apps and rolls them back. Every method raises CloudError NOT_FOUND for an unknown app.

    `client_version` is the version of the SDK that made the call.
    """

    def __init__(self, database: Database, apps: Apps) -> None:
        self._db = database
        self._apps = apps
        database.script(_DDL)

    def publish(self, request: api_pb2.AppPublishRequest, *, client_version: str) -> App:
        """Make a request's functions the app's layout; a deployment also gets its name and its next version.

        A request without a state keeps the app's state: `modal serve` sends such a one after each change of its files.
        Raises CloudError: FAILED_PRECONDITION when the app was stopped, ALREADY_EXISTS when another app has the name,
        INVALID_ARGUMENT for a commit that takes more than 8,192 bytes to describe.
        """
        deployed = request.app_state == api_pb2.APP_STATE_DEPLOYED
        commit = request.commit_info.SerializeToString()
        if len(commit) > _MAX_COMMIT_BYTES:
            raise invalid(f"A deployment's commit is at most {_MAX_COMMIT_BYTES} bytes, not {len(commit)}.")
        with self._db.transaction():
            app = self._apps.get(request.app_id)
            if app.stopped_at:
                raise failed_precondition(
                    f"App '{request.name or app.description}' was stopped meanwhile: deploy again."
                )
            if deployed:
                self._check_name(app, request.name)
            self._apps.set_layout(
                request.app_id,
                function_ids=dict(request.function_ids),
                class_ids=dict(request.class_ids),
                tags=dict(request.tags),
                state=request.app_state or app.state,
                name=request.name if deployed else None,
            )
            if deployed:
                self._add_version(request.app_id, tag=request.deployment_tag, client_version=client_version)
                self._add_commit(request.app_id, commit)
        return self._apps.get(request.app_id)

    def roll_over(self, app_id: str, *, client_version: str) -> App:
        """Deploy the present version again as the next one, so that its containers are replaced.

        Raises CloudError FAILED_PRECONDITION when the app is not deployed.
        """
        with self._db.transaction():
            version = self._deployed(app_id).version
            pinned = {str(row["function_id"]) for row in self._db.all("SELECT function_id FROM pinned_functions")}
            self._apps.renew_definitions(app_id, but=pinned)  # a version is as it was
            self._add_version(app_id, tag="", client_version=client_version)
            self._add_commit(app_id, self._commit(app_id, version))
        return self._apps.get(app_id)

    def roll_back(self, app_id: str, version: int, *, client_version: str) -> App:
        """Deploy an earlier version again as the next one; -1 means the version before the present one.

        Raises CloudError: NOT_FOUND for the version, FAILED_PRECONDITION when the app is not deployed.
        """
        with self._db.transaction():
            app = self._deployed(app_id)
            wanted = version if version > 0 else app.version + version
            row = self._db.one("SELECT * FROM deployments WHERE app_id=? AND version=?", (app_id, wanted))
            if row is None:
                raise _no_version(app, wanted)
            self._apps.set_layout(
                app_id,
                function_ids=json.loads(row["function_ids"]),
                class_ids=json.loads(row["class_ids"]),
                tags=json.loads(row["tags"]),
                state=app.state,
                name=None,
            )
            self._db.execute(
                "UPDATE functions SET definition=was.definition, definition_id=was.definition_id "
                "FROM deployed_functions AS was WHERE was.app_id=? AND was.version=? "
                "AND functions.function_id=was.function_id",
                (app_id, wanted),
            )
            self._apps.definitions_changed()
            self._add_version(app_id, tag=row["tag"], client_version=client_version, rolled_back_to=wanted)
            self._add_commit(app_id, self._commit(app_id, wanted))
        return self._apps.get(app_id)

    def pinned(self, app_id: str, version: int, tag: str) -> str:
        """Return the id of the function that had a tag in a version of an app, as it was then.

        It is a function of its own, with the version's definition and its own containers; it is made if it is new.
        Raises CloudError NOT_FOUND for the version, or when the version has no such tag.
        """
        with self._db.transaction():
            app = self._apps.get(app_id)
            row = self._db.one("SELECT * FROM deployments WHERE app_id=? AND version=?", (app_id, version))
            if row is None:
                raise _no_version(app, version)
            base_id = json.loads(row["function_ids"]).get(tag)
            if base_id is None:
                raise no_function(f"version {version} of app '{app.name}'", tag, json.loads(row["class_ids"]))
            key = (base_id, version)
            known = self._db.one("SELECT function_id FROM pinned_functions WHERE base_id=? AND version=?", key)
            if known is not None:
                return str(known["function_id"])
            function_id = new_id("fu")
            self._db.execute(
                "INSERT INTO functions (function_id, app_id, name, definition_id, definition) "
                "SELECT ?, was.app_id, name, was.definition_id, was.definition FROM deployed_functions AS was "
                "JOIN functions USING (function_id) WHERE was.function_id=? AND was.version=?",
                (function_id, *key),
            )
            self._db.execute("INSERT INTO pinned_functions VALUES (?,?,?)", (*key, function_id))
        return function_id

    def history(self, app_id: str) -> list[Deployment]:
        """Return an app's versions, newest first."""
        self._apps.get(app_id)
        rows = self._db.all(
            "SELECT * FROM deployments LEFT JOIN deployed_commits USING (app_id, version) WHERE app_id=? "
            "ORDER BY version DESC",
            (app_id,),
        )
        return [
            Deployment(
                row["version"],
                row["at"],
                row["tag"],
                row["client_version"],
                row["rolled_back_to"],
                api_pb2.CommitInfo.FromString(row["info"]) if row["info"] else None,
            )
            for row in rows
        ]

    def needed_secrets(self) -> set[str]:
        """Return the ids of the secrets of all versions that can be deployed again."""
        rows = self._db.all("SELECT definition FROM deployed_functions JOIN apps USING (app_id) WHERE stopped_at=0")
        return {used for row in rows for used in secrets_of(api_pb2.Function.FromString(row["definition"]))}

    def _deployed(self, app_id: str) -> App:
        app = self._apps.get(app_id)
        if app.state != api_pb2.APP_STATE_DEPLOYED or app.stopped_at:
            raise failed_precondition(f"App {app_id} is not deployed: run `modal deploy` first.")
        return app

    def _check_name(self, app: App, name: str) -> None:
        """Raise CloudError ALREADY_EXISTS when another app got the name since this one was made."""
        other = self._apps.find(name, environment=app.environment)
        if other is not None and other.app_id != app.app_id:
            raise already_exists(
                f"App '{name}' was made meanwhile, by another deployment or by App.lookup: deploy again to update it."
            )

    def _commit(self, app_id: str, version: int) -> bytes:
        """Return the commit of a version as it was published, empty for none."""
        row = self._db.one("SELECT info FROM deployed_commits WHERE app_id=? AND version=?", (app_id, version))
        return bytes(row["info"]) if row is not None else b""

    def _add_commit(self, app_id: str, commit: bytes) -> None:
        """Note the commit of the version that an app has now."""
        if commit:
            version = self._apps.get(app_id).version
            self._db.execute("INSERT INTO deployed_commits VALUES (?, ?, ?)", (app_id, version, commit))

    def _add_version(self, app_id: str, *, tag: str, client_version: str, rolled_back_to: int = 0) -> None:
        now = time.time()
        version = self._apps.get(app_id).version + 1
        self._db.execute("UPDATE apps SET version=?, deployed_at=? WHERE app_id=?", (version, now, app_id))
        self._db.execute(
            "INSERT INTO deployments SELECT app_id, version, ?, ?, ?, ?, function_ids, class_ids, tags FROM apps "
            "WHERE app_id=?",
            (now, tag, client_version, rolled_back_to, app_id),
        )
        self._db.execute(
            "INSERT INTO deployed_functions SELECT app_id, ?, function_id, definition_id, definition FROM functions "
            "WHERE app_id=? AND function_id IN (SELECT value FROM apps, json_each(apps.function_ids) WHERE app_id=?)",
            (version, app_id, app_id),
        )


def _no_version(app: App, version: int) -> CloudError:
    known = f"1 to {app.version}" if app.version else "none"
    return not_found(f"App '{app.name}' has no version {version}: it has {known}, which `modal app history` shows.")
