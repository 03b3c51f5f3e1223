"""Names of images: what they may be, what they mean, their history, and their limits."""

import itertools
import string
from collections.abc import Iterator
from pathlib import Path

import pytest
from modal_proto import api_pb2

from workbench.local_cloud.base.errors import CloudError, Reason, failed_precondition, not_found
from workbench.local_cloud.images import names
from workbench.local_cloud.images.name_rpc import ImageNameRpcs
from workbench.local_cloud.images.names import ImageNames, parse
from workbench.local_cloud.store.database import Database
from workbench.local_cloud.store.names import Objects


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "cloud.sqlite")
    yield database
    database.close()


@pytest.fixture
def rpcs(database: Database) -> ImageNameRpcs:
    """The handlers for a cloud with the environments main and dev, whose image im-failed cannot be used."""
    objects = Objects(database)
    for name in ("main", "dev"):
        objects.get_or_create("environment", "en", environment="*", name=name, creation_type=1)
    ticks = itertools.count(100)

    def require(image_id: str) -> None:
        if image_id == "im-failed":
            raise failed_precondition("Its build failed.")
        if image_id not in ("im-one", "im-two"):
            raise not_found(f"Image {image_id} not found.")

    return ImageNameRpcs(ImageNames(database, now=lambda: float(next(ticks))), objects, require=require)


async def publish(rpcs: ImageNameRpcs, tag: str, image_id: str = "im-one") -> str:
    made = await rpcs.ImagePublish(api_pb2.ImagePublishRequest(tag=tag, image_id=image_id), None)
    assert made.image_id == image_id
    return made.revision_id


async def found(rpcs: ImageNameRpcs, tag: str, environment: str = "") -> str:
    asked = api_pb2.ImageGetByTagRequest(tag=tag, environment_name=environment)
    return (await rpcs.ImageGetByTag(asked, None)).image_id


@pytest.mark.parametrize(
    ("text", "place", "name"),
    [
        ("mine", "", "mine:latest"),
        ("mine:v1", "", "mine:v1"),
        ("dev/mine", "dev", "mine:latest"),
        ("dev/mine:v1.0_a-b", "dev", "mine:v1.0_a-b"),
        ("m" * 64, "", "m" * 64 + ":latest"),
    ],
)
def test_a_name_is_read_as_the_sdk_writes_it(text: str, place: str, name: str) -> None:
    assert (parse(text).environment, parse(text).name) == (place, name)


@pytest.mark.parametrize(
    "text", ["", ":v1", "a b", "mine:", "mine:a/b", "/mine", "dev/", "im-1", "m" * 65, "mine\n", "ap-" + "a" * 22, "é"]
)
def test_what_the_sdk_does_not_take_for_a_name_is_refused(text: str) -> None:
    with pytest.raises(CloudError) as caught:
        parse(text)
    assert caught.value.reason == Reason.INVALID_ARGUMENT


async def test_a_name_means_what_was_published_last_in_its_environment(rpcs: ImageNameRpcs) -> None:
    await publish(rpcs, "mine")
    await publish(rpcs, "mine", "im-two")
    await publish(rpcs, "dev/mine")
    assert await found(rpcs, "mine:latest") == "im-two"
    assert await found(rpcs, "main/mine") == "im-two"
    assert await found(rpcs, "mine", "dev") == await found(rpcs, "dev/mine") == "im-one"
    with pytest.raises(CloudError, match="Image 'mine:v1' not found in environment 'dev'"):
        await found(rpcs, "dev/mine:v1")
    with pytest.raises(CloudError, match="Environment 'nowhere' not found"):
        await found(rpcs, "nowhere/mine")


async def test_only_images_that_can_be_used_get_names(rpcs: ImageNameRpcs) -> None:
    for image_id, reason in (("im-failed", Reason.FAILED_PRECONDITION), ("im-unknown", Reason.NOT_FOUND)):
        with pytest.raises(CloudError) as caught:
            await publish(rpcs, "mine", image_id)
        assert caught.value.reason == reason
    with pytest.raises(CloudError, match="Public images"):
        await rpcs.ImagePublish(api_pb2.ImagePublishRequest(tag="a", image_id="im-one", allow_public=True), None)


async def test_the_name_of_an_image_that_is_gone_says_so(rpcs: ImageNameRpcs, database: Database) -> None:
    await publish(rpcs, "mine")
    database.execute("UPDATE image_names SET image_id='im-gone'")
    with pytest.raises(CloudError, match="'mine:latest' is im-gone, which is not there any more") as caught:
        await found(rpcs, "mine")
    assert caught.value.reason == Reason.NOT_FOUND


async def test_names_are_listed_in_pages_each_once(rpcs: ImageNameRpcs) -> None:
    for letter in string.ascii_lowercase[:7]:
        await publish(rpcs, f"mine-{letter}")
    await publish(rpcs, "mine-a", "im-two")
    await publish(rpcs, "other")
    await publish(rpcs, "dev/mine-z")
    seen, token = [], ""
    while True:
        asked = api_pb2.ImageListTagsRequest(tag_prefix="mine-", max_objects=3, page_token=token)
        page = await rpcs.ImageListTags(asked, None)
        assert page.environment_name == "main"
        seen += page.items
        if not (token := page.next_page_token):
            break
    assert [each.tag for each in seen] == [f"main/mine-{letter}:latest" for letter in "abcdefg"]
    assert (seen[0].image_id, seen[0].created_at, seen[0].updated_at) == ("im-two", 100, 107)
    assert seen[0].last_published_by == "local"
    of_image = await rpcs.ImageListTags(api_pb2.ImageListTagsRequest(image_id="im-two"), None)
    assert [each.tag for each in of_image.items] == ["main/mine-a:latest"]


async def test_the_history_of_a_name_has_the_newest_first_in_pages(rpcs: ImageNameRpcs) -> None:
    made = [await publish(rpcs, "mine", ("im-one", "im-two")[number % 2]) for number in range(5)]
    seen, token = [], ""
    while True:
        asked = api_pb2.ImageTagRevisionsRequest(tag="mine", max_objects=2, page_token=token)
        page = await rpcs.ImageTagRevisions(asked, None)
        assert page.tag == "main/mine:latest"
        seen += page.items
        if not (token := page.next_page_token):
            break
    assert [each.revision_id for each in seen] == made[::-1]
    assert [each.created_at for each in seen] == [104, 103, 102, 101, 100]
    nothing = await rpcs.ImageTagRevisions(api_pb2.ImageTagRevisionsRequest(tag="dev/none"), None)
    assert (list(nothing.items), nothing.tag) == ([], "dev/none:latest")


@pytest.mark.parametrize("token", ["x", "-1", "1; DROP", "9" * 30])
async def test_a_token_of_no_page_is_refused(rpcs: ImageNameRpcs, token: str) -> None:
    with pytest.raises(CloudError) as caught:
        await rpcs.ImageTagRevisions(api_pb2.ImageTagRevisionsRequest(tag="mine", page_token=token), None)
    assert caught.value.reason == Reason.INVALID_ARGUMENT


async def test_a_deleted_name_takes_its_history_along_and_no_other(rpcs: ImageNameRpcs) -> None:
    for tag in ("mine", "mine:v1", "dev/mine"):
        await publish(rpcs, tag)
    await rpcs.ImageNameDelete(api_pb2.ImageNameDeleteRequest(tag="main/mine:latest"), None)
    history = await rpcs.ImageTagRevisions(api_pb2.ImageTagRevisionsRequest(tag="mine"), None)
    assert not history.items
    assert await found(rpcs, "mine:v1") == await found(rpcs, "dev/mine") == "im-one"
    with pytest.raises(CloudError, match="not found in environment 'main'"):
        await rpcs.ImageNameDelete(api_pb2.ImageNameDeleteRequest(tag="main/mine:latest"), None)


async def test_names_and_revisions_have_limits(rpcs: ImageNameRpcs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "MAX_NAMES", 2)
    monkeypatch.setattr(names, "MAX_REVISIONS", 3)
    await publish(rpcs, "one")
    made = [await publish(rpcs, "two") for _ in range(5)]
    with pytest.raises(CloudError, match="at most 2 names"):
        await publish(rpcs, "three")
    history = await rpcs.ImageTagRevisions(api_pb2.ImageTagRevisionsRequest(tag="two"), None)
    assert [each.revision_id for each in history.items] == made[:1:-1]
    assert await found(rpcs, "one") == "im-one"
