"""What a cloud that is no root commits, which may not read everything that its guests write."""

import os

import pytest

from tests.support.ordinary_user import run_as_ordinary_user


@pytest.mark.skipif(os.geteuid() != 0, reason="these tests run as an ordinary user already")
def test_what_keeps_its_owner_out_is_committed_by_an_ordinary_user_too() -> None:
    test = "test_what_keeps_its_owner_out_is_committed_as_it_is"
    assert run_as_ordinary_user(f"tests/quick/local_cloud/volumes/test_working_copies.py::{test}") >= 1


@pytest.mark.skipif(os.geteuid() != 0, reason="these tests run as an ordinary user already")
@pytest.mark.timeout(600)
def test_mounts_of_an_ordinary_user_are_overlays_that_behave_as_root_s_do() -> None:
    """A job after another one, and a large project; `tests/nightly` has every test of mounts and of kept layers."""
    file = "tests/standard/local_cloud/test_overlay_mounts.py"
    names = (
        "test_a_job_renames_links_and_exchanges_what_an_earlier_job_has_committed",
        "test_a_large_project_is_an_overlay_for_an_ordinary_user_too",
    )
    assert run_as_ordinary_user(*(f"{file}::{name}" for name in names), timeout_s=580) == len(names)


@pytest.mark.skipif(os.geteuid() != 0, reason="these tests run as an ordinary user already")
@pytest.mark.timeout(400)
@pytest.mark.parametrize("with_ids", [False, True])
def test_the_cloud_of_an_ordinary_user_keeps_its_ids_in_a_user_namespace(with_ids: bool) -> None:
    test = "tests/quick/local_cloud/rootfs/test_user_namespace.py"
    assert run_as_ordinary_user(test, with_ids=with_ids) >= (3 if with_ids else 2)
