"""Deployments that meet: what is deployed is exactly what can be found by its name."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from modal_proto import api_pb2

from workbench.local_cloud.apps.apps import Apps
from workbench.local_cloud.apps.deployment_versions import Deployments
from workbench.local_cloud.base.errors import CloudError, Reason
from workbench.local_cloud.store.database import Database
from workbench.local_cloud.store.names import Objects

NAME = "greeter"


@pytest.fixture
def database() -> Iterator[Database]:
    database = Database(Path(":memory:"))
    Objects(database)
    yield database
    database.close()


@pytest.fixture
def apps(database: Database) -> Apps:
    return Apps(database)


@pytest.fixture
def deployments(database: Database, apps: Apps) -> Deployments:
    return Deployments(database, apps)


def building(apps: Apps) -> str:
    return apps.create(environment="", description=NAME, state=api_pb2.APP_STATE_INITIALIZING)


def publish(deployments: Deployments, app_id: str) -> None:
    request = api_pb2.AppPublishRequest(app_id=app_id, name=NAME, app_state=api_pb2.APP_STATE_DEPLOYED)
    deployments.publish(request, client_version="1")


def test_each_version_keeps_its_commit_also_when_it_is_deployed_again(apps: Apps, deployments: Deployments) -> None:
    app_id = building(apps)
    commits = [api_pb2.CommitInfo(vcs="git", commit_hash=letter * 40, dirty=letter == "b") for letter in "ab"]
    for commit in (*commits, None):
        deployed = api_pb2.APP_STATE_DEPLOYED
        request = api_pb2.AppPublishRequest(app_id=app_id, name=NAME, app_state=deployed, commit_info=commit)
        deployments.publish(request, client_version="1")
    deployments.roll_over(app_id, client_version="1")
    deployments.roll_back(app_id, 2, client_version="1")
    deployments.roll_over(app_id, client_version="1")
    found = [one.commit for one in reversed(deployments.history(app_id))]
    assert found == [*commits, None, None, commits[1], commits[1]]


def test_a_commit_that_is_too_large_is_refused_and_nothing_is_deployed(apps: Apps, deployments: Deployments) -> None:
    app_id = building(apps)
    request = api_pb2.AppPublishRequest(app_id=app_id, name=NAME, app_state=api_pb2.APP_STATE_DEPLOYED)
    request.commit_info.branch = "b" * 10_000
    with pytest.raises(CloudError, match="commit is at most 8192 bytes"):
        deployments.publish(request, client_version="1")
    assert deployments.history(app_id) == []


@pytest.mark.parametrize("first", ["another deployment", "a lookup that makes it"])
def test_a_name_that_was_taken_while_an_app_was_built_is_refused_in_words(
    apps: Apps, deployments: Deployments, first: str
) -> None:
    late = building(apps)
    if first == "another deployment":
        publish(deployments, winner := building(apps))
    else:
        winner = apps.get_or_create(NAME, environment="", create=True).app_id
    with pytest.raises(CloudError, match="was made meanwhile") as caught:
        publish(deployments, late)
    assert caught.value.reason is Reason.ALREADY_EXISTS
    publish(deployments, winner)  # which is what deploying again does
    found = apps.find(NAME, environment="")
    assert found is not None
    assert (found.app_id, apps.get(late).state) == (winner, api_pb2.APP_STATE_INITIALIZING)


def test_an_app_that_is_stopped_while_it_is_built_is_not_deployed(apps: Apps, deployments: Deployments) -> None:
    publish(deployments, app_id := building(apps))
    apps.stop(app_id)
    with pytest.raises(CloudError, match="was stopped meanwhile: deploy again") as caught:
        publish(deployments, app_id)
    assert caught.value.reason is Reason.FAILED_PRECONDITION
    assert (apps.get(app_id).state, apps.get(app_id).version) == (api_pb2.APP_STATE_STOPPED, 1)


def test_the_app_of_a_name_that_was_stopped_last_is_found_until_another_is_deployed(
    apps: Apps, deployments: Deployments
) -> None:
    assert apps.stopped(NAME, environment="") is None
    for _ in range(2):
        publish(deployments, last := building(apps))
        apps.stop(last)
    found = apps.stopped(NAME, environment="")
    assert found is not None
    assert (found.app_id, apps.stopped(NAME, environment="other")) == (last, None)


def test_a_stopped_app_is_listed_for_a_while_only(apps: Apps, database: Database, deployments: Deployments) -> None:
    publish(deployments, deployed := building(apps))
    recent, old = building(apps), building(apps)
    apps.stop(recent)
    apps.stop(old)
    database.execute("UPDATE apps SET stopped_at=stopped_at-3700 WHERE app_id=?", (old,))
    assert {app.app_id for app in apps.listed(environment="")} == {deployed, recent}


def test_a_detached_app_is_left_by_a_client_that_is_silent_and_not_by_one_that_is_heard(apps: Apps) -> None:
    detached = apps.create(environment="", description=NAME, state=api_pb2.APP_STATE_DETACHED)
    apps.create(environment="", description=NAME, state=api_pb2.APP_STATE_DEPLOYED)
    apps.leave_silent(silence_s=60)
    assert apps.left() == []
    apps.leave_silent(silence_s=-1)  # as if a minute had passed
    assert apps.left() == [detached]
    apps.beat(detached)  # the client's machine was asleep
    assert apps.left() == []
    apps.stop(detached)
    apps.beat(detached)
    assert apps.get(detached).state == api_pb2.APP_STATE_STOPPED
