from __future__ import annotations

from bocage.model import base, ground
from bocage.planner import usage
from tests.planner import things

DIGEST = "a" * 64


def image() -> ground.Image:
    spec = {"sha256": DIGEST, "format": "raw", "virtual_size": "64M", "storage": things.STORAGE}
    return ground.Image.model_validate({"metadata": {"name": "tiny", "project": "default"}, "spec": spec})


def volume(*, state: str = "ready", **spec: object) -> ground.Volume:
    return ground.Volume.model_validate(
        {
            "metadata": {"name": "disk", "project": "default"},
            "spec": {"storage": things.STORAGE, "size": "64M", "image": DIGEST, "vm": things.MACHINE, **spec},
            "status": {"state": state},
        }
    )


def users(*volumes: ground.Volume) -> list[str]:
    return usage.of_image(image(), volumes, [things.machine()])


def test_a_linked_disk_rests_on_its_image_for_ever_and_a_copy_until_it_is_made():
    assert users(volume(linked=True)) == ["web"]
    assert users(volume(linked=False)) == []
    assert users(volume(linked=False, state="pending")) == ["web"]


def test_an_image_of_the_same_digest_on_another_storage_is_another_file():
    assert users(volume(linked=True, storage=base.new_uid())) == []
