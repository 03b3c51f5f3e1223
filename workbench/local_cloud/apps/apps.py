"""Apps and functions in SQLite: their names, states, layouts, definitions, variants and web ports."""

import json
import re
import time
from collections.abc import Collection, Container
from dataclasses import dataclass

from modal_proto import api_pb2

from workbench.local_cloud.apps.variants import with_options
from workbench.local_cloud.base.errors import CloudError, invalid, not_found
from workbench.local_cloud.base.ids import new_id
from workbench.local_cloud.store.database import Database
from workbench.local_cloud.store.names import DEFAULT_ENVIRONMENT, require_environment

_DDL = """
CREATE TABLE IF NOT EXISTS apps (
  app_id TEXT PRIMARY KEY, environment TEXT NOT NULL, description TEXT NOT NULL, name TEXT, state INTEGER NOT NULL,
  created_at REAL NOT NULL, deployed_at REAL NOT NULL DEFAULT 0, stopped_at REAL NOT NULL DEFAULT 0,
  heartbeat_at REAL NOT NULL, version INTEGER NOT NULL DEFAULT 0, tags TEXT NOT NULL DEFAULT '{}',
  function_ids TEXT NOT NULL DEFAULT '{}', class_ids TEXT NOT NULL DEFAULT '{}'
);
CREATE UNIQUE INDEX IF NOT EXISTS apps_by_name ON apps (environment, name) WHERE name IS NOT NULL AND stopped_at=0;
CREATE TABLE IF NOT EXISTS functions (
  function_id TEXT PRIMARY KEY, app_id TEXT NOT NULL, name TEXT NOT NULL, definition_id TEXT NOT NULL,
  definition BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS variants (
  function_id TEXT PRIMARY KEY, base_id TEXT NOT NULL, params BLOB NOT NULL, options BLOB NOT NULL,
  UNIQUE (base_id, params, options)
);
CREATE TABLE IF NOT EXISTS classes (class_id TEXT PRIMARY KEY, app_id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS web_ports (
  function_id TEXT NOT NULL, method TEXT NOT NULL, port INTEGER NOT NULL, PRIMARY KEY (function_id, method)
);
"""


_DEFINITIONS_KEPT = 1000
_STOPPED_LISTED_S = 3600.0  # how long a stopped app is still listed


@dataclass(frozen=True)
class App:
    """One app as stored. Times are Unix seconds, 0 for never; `name` is set for deployments only.

    `state` is the protocol's AppState; `function_ids` and `class_ids` map the tags of the app's layout to ids.
    """

    app_id: str
    environment: str
    description: str
    name: str | None
    state: int
    created_at: float
    deployed_at: float
    stopped_at: float
    version: int
    tags: dict[str, str]
    function_ids: dict[str, str]
    class_ids: dict[str, str]


def secrets_of(function: api_pb2.Function) -> set[str]:
    """Return the ids of the objects that a function has as its secrets or uses in its code."""
    return {*function.secret_ids, *(used.object_id for used in function.object_dependencies)}


def no_function(what: str, tag: str, classes: Container[str]) -> CloudError:
    """Build the refusal of a function's look-up in `what`; where the tag is a class's, the SDK says so.

    `classes` are the tags of the classes that the app has, or had in the version that was asked for.
    """
    taken = api_pb2.FunctionLookupError(reason=api_pb2.FunctionLookupError.REASON_CLASS_NAME_USED)
    return not_found(f"Function '{tag}' of {what} not found.", detail=taken if tag in classes else None)


class Apps:
    """Reads and writes apps and functions. Every method raises CloudError NOT_FOUND for an id that does not exist."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._definitions: dict[str, api_pb2.Function] = {}  # parsed; each input needs them several times
        self._definition_ids: dict[str, str] = {}  # as often
        database.script(_DDL)

    def create(self, *, environment: str, description: str, state: int) -> str:
        """Make an app that has no deployment name yet, and return its id. `state` is the protocol's AppState."""
        require_environment(self._db, environment or DEFAULT_ENVIRONMENT)
        app_id = new_id("ap")
        now = time.time()
        self._db.execute(
            "INSERT INTO apps (app_id, environment, description, state, created_at, heartbeat_at) VALUES (?,?,?,?,?,?)",
            (app_id, environment or DEFAULT_ENVIRONMENT, description, state, now, now),
        )
        return app_id

    def get(self, app_id: str) -> App:
        """Return one app by id."""
        row = self._db.one("SELECT * FROM apps WHERE app_id=?", (app_id,))
        if row is None:
            raise not_found(f"App {app_id} not found.")
        return App(
            app_id=row["app_id"],
            environment=row["environment"],
            description=row["description"],
            name=row["name"],
            state=row["state"],
            created_at=row["created_at"],
            deployed_at=row["deployed_at"],
            stopped_at=row["stopped_at"],
            version=row["version"],
            tags=json.loads(row["tags"]),
            function_ids=json.loads(row["function_ids"]),
            class_ids=json.loads(row["class_ids"]),
        )

    def find(self, name: str, *, environment: str) -> App | None:
        """Return the deployment of that name that is not stopped, or None."""
        row = self._db.one(
            "SELECT app_id FROM apps WHERE name=? AND environment=? AND stopped_at=0",
            (name, environment or DEFAULT_ENVIRONMENT),
        )
        return None if row is None else self.get(row["app_id"])

    def stopped(self, name: str, *, environment: str) -> App | None:
        """Return the deployment of that name that was stopped last, or None."""
        row = self._db.one(
            "SELECT app_id FROM apps WHERE name=? AND environment=? AND stopped_at>0 ORDER BY stopped_at DESC",
            (name, environment or DEFAULT_ENVIRONMENT),
        )
        return None if row is None else self.get(row["app_id"])

    def running(self, name: str) -> list[str]:
        """Return the ids of the deployments of that name that are not stopped, one of each environment."""
        return [row["app_id"] for row in self._db.all("SELECT app_id FROM apps WHERE name=? AND stopped_at=0", (name,))]

    def listed(self, *, environment: str) -> list[App]:
        """Return the apps of an environment that run, are deployed or were stopped in the last hour, newest first."""
        rows = self._db.all(
            "SELECT app_id FROM apps WHERE environment=? AND (stopped_at=0 OR stopped_at>?) ORDER BY created_at DESC",
            (environment or DEFAULT_ENVIRONMENT, time.time() - _STOPPED_LISTED_S),
        )
        return [self.get(row["app_id"]) for row in rows]

    def set_layout(
        self,
        app_id: str,
        *,
        function_ids: dict[str, str],
        class_ids: dict[str, str],
        tags: dict[str, str],
        state: int,
        name: str | None,
    ) -> None:
        """Replace an app's layout, tags and state, and set its deployment name unless `name` is None."""
        self.get(app_id)
        self._db.execute(
            "UPDATE apps SET state=?, function_ids=?, class_ids=?, tags=?, name=coalesce(?, name) WHERE app_id=?",
            (state, json.dumps(function_ids), json.dumps(class_ids), json.dumps(tags), name, app_id),
        )

    def set_tags(self, app_id: str, tags: dict[str, str]) -> None:
        """Replace an app's tags."""
        self.get(app_id)
        self._db.execute("UPDATE apps SET tags=? WHERE app_id=?", (json.dumps(tags), app_id))

    def renew_definitions(self, app_id: str, *, but: Collection[str]) -> None:
        """Give an app's definitions, `but` those of some functions, new ids, so that their containers are replaced."""
        for function_id in set(self.functions_of(app_id)).difference(but):
            self._db.execute("UPDATE functions SET definition_id=? WHERE function_id=?", (new_id("de"), function_id))
        self.definitions_changed()

    def get_or_create(self, name: str, *, environment: str, create: bool) -> App:
        """Find an app by its deployment name, as `App.lookup` does; with `create`, make an empty one when missing."""
        found = self.find(name, environment=environment)
        if found is None and not create:
            raise not_found(f"App '{name}' not found in environment '{environment or DEFAULT_ENVIRONMENT}'.")
        if found is None:
            app_id = self.create(environment=environment, description=name, state=api_pb2.APP_STATE_DEPLOYED)
            self._db.execute("UPDATE apps SET name=?, deployed_at=? WHERE app_id=?", (name, time.time(), app_id))
            found = self.get(app_id)
        return found

    def stop(self, app_id: str) -> None:
        """Mark an app as stopped; its deployment name becomes free."""
        self.get(app_id)
        self._db.execute(
            "UPDATE apps SET state=?, stopped_at=? WHERE app_id=? AND stopped_at=0",
            (api_pb2.APP_STATE_STOPPED, time.time(), app_id),
        )

    def beat(self, app_id: str) -> None:
        """Record a heartbeat of an app's client; a detached app that was taken for left has its client again, then."""
        self._db.execute(
            "UPDATE apps SET heartbeat_at=?, state=CASE state WHEN ? THEN ? ELSE state END WHERE app_id=?",
            (time.time(), api_pb2.APP_STATE_DETACHED_DISCONNECTED, api_pb2.APP_STATE_DETACHED, app_id),
        )

    def abandoned(self, *, silence_s: float) -> list[str]:
        """Return the ids of ephemeral apps whose client has sent no heartbeat for `silence_s` seconds."""
        rows = self._db.all(
            "SELECT app_id FROM apps WHERE stopped_at=0 AND heartbeat_at<? AND state IN (?,?)",
            (time.time() - silence_s, api_pb2.APP_STATE_EPHEMERAL, api_pb2.APP_STATE_INITIALIZING),
        )
        return [row["app_id"] for row in rows]

    def leave(self, app_id: str) -> None:
        """Record that the client of a detached app has left it; does nothing for an app in another state."""
        self._db.execute(
            "UPDATE apps SET state=? WHERE app_id=? AND state=?",
            (api_pb2.APP_STATE_DETACHED_DISCONNECTED, app_id, api_pb2.APP_STATE_DETACHED),
        )

    def leave_silent(self, *, silence_s: float) -> None:
        """Record that every detached app whose client has sent no heartbeat for `silence_s` seconds is left by it."""
        self._db.execute(
            "UPDATE apps SET state=? WHERE state=? AND heartbeat_at<?",
            (api_pb2.APP_STATE_DETACHED_DISCONNECTED, api_pb2.APP_STATE_DETACHED, time.time() - silence_s),
        )

    def left(self) -> list[str]:
        """Return the ids of detached apps that run on, although their client has left them."""
        rows = self._db.all("SELECT app_id FROM apps WHERE state=?", (api_pb2.APP_STATE_DETACHED_DISCONNECTED,))
        return [row["app_id"] for row in rows]

    def not_stopped(self) -> set[str]:
        """Return the ids of all apps that are not stopped."""
        return {row["app_id"] for row in self._db.all("SELECT app_id FROM apps WHERE stopped_at=0")}

    def needed_secrets(self) -> set[str]:
        """Return the ids of the secrets of all functions and variants of apps that are not stopped."""
        functions = self._db.all("SELECT definition FROM functions JOIN apps USING (app_id) WHERE stopped_at=0")
        variants = self._db.all(
            "SELECT options FROM variants JOIN functions ON functions.function_id=base_id JOIN apps USING (app_id) "
            "WHERE stopped_at=0"
        )
        needed: set[str] = set()
        for row in functions:
            needed.update(secrets_of(api_pb2.Function.FromString(row["definition"])))
        for row in variants:
            needed.update(api_pb2.FunctionOptions.FromString(row["options"]).secret_ids)
        return needed

    def functions_of(self, app_id: str) -> list[str]:
        """Return the ids of all functions that an app has ever defined, also those not in its present layout."""
        rows = self._db.all("SELECT function_id FROM functions WHERE app_id=?", (app_id,))
        return [row["function_id"] for row in rows]

    def scheduled(self) -> list[tuple[str, str]]:
        """Return (function id, definition id) of every function with a schedule in deployments that are not stopped."""
        rows = self._db.all(
            "SELECT function_ids, function_id, definition_id, definition FROM functions JOIN apps USING (app_id) "
            "WHERE stopped_at=0 AND state=?",
            (api_pb2.APP_STATE_DEPLOYED,),
        )
        return [
            (row["function_id"], row["definition_id"])
            for row in rows
            if row["function_id"] in json.loads(row["function_ids"]).values()
            and api_pb2.Function.FromString(row["definition"]).HasField("schedule")
        ]

    def precreate_function(self, app_id: str, *, name: str, existing_id: str, definition: api_pb2.Function) -> str:
        """Return the id of a function that is about to be defined: `existing_id`, or a new one when that is empty."""
        self.get(app_id)
        if existing_id:
            self.function(existing_id)
            return existing_id
        function_id = new_id("fu")
        self._db.execute(
            "INSERT INTO functions (function_id, app_id, name, definition_id, definition) VALUES (?,?,?,?,?)",
            (function_id, app_id, name, "", definition.SerializeToString()),
        )
        return function_id

    def define_function(self, app_id: str, function_id: str, definition: api_pb2.Function) -> str:
        """Store a function's definition and return the function's id, a new one when `function_id` is empty.

        Raises CloudError INVALID_ARGUMENT for a bad name.
        """
        if not function_id:
            function_id = self.precreate_function(
                app_id, name=definition.function_name, existing_id="", definition=definition
            )
        if not re.fullmatch(r"[\w.*<>-]{1,256}", definition.function_name):
            raise invalid(
                f"A function's name must be 1 to 256 letters, digits and any of . - _ * < >, "
                f"not {definition.function_name[:300]!r}."
            )
        self._db.execute(
            "UPDATE functions SET definition=?, definition_id=?, name=? WHERE function_id=? AND app_id=?",
            (definition.SerializeToString(), new_id("de"), definition.function_name, function_id, app_id),
        )
        self.definitions_changed()
        return function_id

    def function(self, function_id: str) -> api_pb2.Function:
        """Return a function's definition, which must not be changed; a variant's is made from its base function's."""
        if function_id not in self._definitions:
            if len(self._definitions) > _DEFINITIONS_KEPT:
                self._definitions.clear()
            self._definitions[function_id] = self._read_function(function_id)
        return self._definitions[function_id]

    def definitions_changed(self) -> None:
        """Forget cached definitions; to be called after every write to their table."""
        self._definitions.clear()
        self._definition_ids.clear()

    def _read_function(self, function_id: str) -> api_pb2.Function:
        variant = self._db.one("SELECT base_id, options FROM variants WHERE function_id=?", (function_id,))
        if variant is not None:
            options = api_pb2.FunctionOptions.FromString(variant["options"])
            return with_options(self.function(variant["base_id"]), options)
        row = self._db.one("SELECT definition FROM functions WHERE function_id=?", (function_id,))
        if row is None:
            raise not_found(f"Function {function_id} not found.")
        definition: api_pb2.Function = api_pb2.Function.FromString(row["definition"])
        return definition

    def bind(self, function_id: str, params: bytes, options: api_pb2.FunctionOptions) -> str:
        """Return the id of a function's variant, which is made if it is new.

        `params` are the serialised parameters of a class, `options` those of `with_options`; both may be empty. Raises
        CloudError INVALID_ARGUMENT when `function_id` is a variant itself.
        """
        self.function(function_id)
        if (base_id := self.base_id(function_id)) != function_id:
            raise invalid(f"{function_id} has parameters or options already: bind its base function {base_id}.")
        key = (function_id, params, options.SerializeToString(deterministic=True))
        with self._db.transaction():
            row = self._db.one("SELECT function_id FROM variants WHERE base_id=? AND params=? AND options=?", key)
            if row is not None:
                return str(row["function_id"])
            variant_id = new_id("fu")
            self._db.execute("INSERT INTO variants VALUES (?,?,?,?)", (variant_id, *key))
        return variant_id

    def base_id(self, function_id: str) -> str:
        """Return the id of a variant's base function, or the function's own."""
        row = self._db.one("SELECT base_id FROM variants WHERE function_id=?", (function_id,))
        return function_id if row is None else str(row["base_id"])

    def variants(self, base_id: str) -> list[str]:
        """Return the ids of a function's variants, newest first."""
        rows = self._db.all("SELECT function_id FROM variants WHERE base_id=? ORDER BY rowid DESC", (base_id,))
        return [row["function_id"] for row in rows]

    def options(self, function_id: str) -> api_pb2.FunctionOptions:
        """Return the options of a variant, as they were given; empty for a base function."""
        row = self._db.one("SELECT options FROM variants WHERE function_id=?", (function_id,))
        options: api_pb2.FunctionOptions = api_pb2.FunctionOptions.FromString(b"" if row is None else row["options"])
        return options

    def params(self, function_id: str) -> bytes:
        """Return the serialised parameters of a variant; empty for a base function."""
        row = self._db.one("SELECT params FROM variants WHERE function_id=?", (function_id,))
        return b"" if row is None else bytes(row["params"])

    def create_class(self, app_id: str, existing_id: str) -> str:
        """Return the id of an app's class: `existing_id` when that is given, else a new one."""
        self.get(app_id)
        if existing_id:
            if self._db.one("SELECT 1 FROM classes WHERE class_id=? AND app_id=?", (existing_id, app_id)) is None:
                raise not_found(f"Class {existing_id} not found.")
            return existing_id
        class_id = new_id("cs")
        self._db.execute("INSERT INTO classes VALUES (?,?)", (class_id, app_id))
        return class_id

    def app_of(self, function_id: str) -> App:
        """Return the app that a function belongs to."""
        row = self._db.one("SELECT app_id FROM functions WHERE function_id=?", (self.base_id(function_id),))
        if row is None:
            raise not_found(f"Function {function_id} not found.")
        return self.get(row["app_id"])

    def definition_id(self, function_id: str) -> str:
        """Return the id of a function's present definition, which changes with each deployment; empty if unknown."""
        if function_id not in self._definition_ids:
            row = self._db.one("SELECT definition_id FROM functions WHERE function_id=?", (self.base_id(function_id),))
            if row is None:
                return ""
            if len(self._definition_ids) > _DEFINITIONS_KEPT:
                self._definition_ids.clear()
            self._definition_ids[function_id] = str(row["definition_id"])
        return self._definition_ids[function_id]

    def port(self, function_id: str, method: str = "") -> int:
        """Return the loopback port of a web function, or of a class's web method; 0 when it has none yet."""
        row = self._db.one("SELECT port FROM web_ports WHERE function_id=? AND method=?", (function_id, method))
        return 0 if row is None else int(row["port"])

    def set_port(self, function_id: str, method: str, port: int) -> None:
        """Store a web function's port, so that its URL stays the same after a restart."""
        self._db.execute("INSERT OR REPLACE INTO web_ports VALUES (?,?,?)", (function_id, method, port))

    def web_functions(self) -> list[tuple[str, str]]:
        """Return (function id, method) of all web functions with a port in deployments that are not stopped.

        The method is empty except for a class's.
        """
        rows = self._db.all(
            "SELECT function_id, method FROM web_ports JOIN functions USING (function_id) JOIN apps USING (app_id) "
            "WHERE stopped_at=0 AND state=?",
            (api_pb2.APP_STATE_DEPLOYED,),
        )
        return [(row["function_id"], row["method"]) for row in rows]
