"""Images, volumes, networks, storage, hosts, adoption."""

from bocage.model import ground
from tests.api.conftest import create, problem

INSIDE = "/projects/default"


async def test_an_image_is_added_by_a_task_that_says_where_and_under_which_uid(client, world):
    sent = {"name": "debian", "url": "https://example.org/debian.qcow2", "sha256": "0" * 64}
    answer = await client.post(f"{INSIDE}/images", json=sent)
    task = answer.json()
    assert answer.headers["location"] == f"/api/v1{INSIDE}/images/debian"
    assert task["spec"]["action"] == "image.add"
    assert task["spec"]["host"] == world.host.uid
    assert task["spec"]["subject"]["name"] == "debian"
    assert task["spec"]["params"]["url"] == sent["url"]
    assert task["spec"]["params"]["storage"] == world.storage.uid
    problem(await client.post(f"{INSIDE}/images", json={**sent, "name": "tiny"}), 409, "name-taken")
    problem(await client.post(f"{INSIDE}/images", json={"name": "none"}), 422, "invalid-fields")
    problem(await client.post(f"{INSIDE}/images", json={**sent, "url": "file:///etc/shadow"}), 422, "invalid-fields")
    problem(await client.post(f"{INSIDE}/images", json={**sent, "storage": "nope"}), 404, "no-such-reference")


async def test_an_image_is_built_by_a_task(client):
    task = (await client.post(f"{INSIDE}/images/build", json={"what": "tiny", "name": "tiny2"})).json()
    assert (task["spec"]["action"], task["spec"]["params"]["what"]) == ("image.build", "tiny")


async def test_an_image_that_disks_are_linked_to_stays(client):
    await create(client)
    said = problem(await client.delete(f"{INSIDE}/images/tiny"), 409, "image-in-use")
    assert said["users"] == ["web1"]
    await create(client, "full", full=True)
    assert len(problem(await client.delete(f"{INSIDE}/images/tiny"), 409, "image-in-use")["users"]) == 1


async def test_a_full_copy_needs_its_image_no_more(client):
    await create(client, full=True)
    assert (await client.delete(f"{INSIDE}/images/tiny")).json()["spec"]["action"] == "image.delete"


async def test_a_volume_is_made_grown_and_deleted(client, world):
    task = (await client.post(f"{INSIDE}/volumes", json={"name": "data", "size": "1G", "format": "raw"})).json()
    volume = await world.kept.find(ground.Volume, "default", "data")
    assert task["spec"]["subject"]["uid"] == volume.uid
    assert volume.spec.format == "raw"
    task = (await client.post(f"{INSIDE}/volumes/data/grow", json={"size": "2G"})).json()
    assert task["spec"]["params"] == {"size": "2G"}
    problem(await client.post(f"{INSIDE}/volumes/data/grow", json={"size": "512M"}), 422, "volume-only-grows")
    problem(await client.post(f"{INSIDE}/volumes/data/grow", json={"size": "100T"}), 422, "invalid-fields")
    assert (await client.delete(f"{INSIDE}/volumes/data")).json()["spec"]["action"] == "volume.delete"
    problem(await client.post(f"{INSIDE}/volumes", json={"name": "b", "size": "100B"}), 422, "invalid-fields")


async def test_the_disk_of_a_vm_is_grown_at_the_vm(client, world):
    await create(client)
    [volume] = (await world.kept.list(ground.Volume)).items
    problem(await client.post(f"{INSIDE}/volumes/{volume.name}/grow", json={"size": "9G"}), 409, "volume-is-a-disk")


async def test_a_network_with_nics_on_it_stays(client):
    task = (
        await client.post(f"{INSIDE}/networks", json={"name": "lan", "kind": "nat", "subnet": "10.80.1.0/24"})
    ).json()
    assert task["spec"]["action"] == "network.create"
    await create(client, nics=[{"network": "lan"}])
    said = problem(await client.delete(f"{INSIDE}/networks/lan"), 409, "network-in-use")
    assert said["users"] == ["web1"]
    await client.post(f"{INSIDE}/networks", json={"name": "other"})
    assert (await client.delete(f"{INSIDE}/networks/other")).status_code == 202
    for subnet in ("8.8.8.0/24", "10.0.0.0/30", "fd00::/64", "10.0.0.1/24", "x"):
        answer = await client.post(f"{INSIDE}/networks", json={"name": "bad", "kind": "nat", "subnet": subnet})
        assert problem(answer, 422, "invalid-fields")["faults"][0]["path"] == "subnet"


async def test_storage_lies_in_a_place_of_its_own_and_stays_while_it_holds_something(client, world):
    task = (await client.post("/storage", json={"name": "fast", "path": "/srv/fast"})).json()
    assert task["spec"]["subject"]["kind"] == "storage"
    for path in ("/srv/fast", "/srv/fast/inside", "/srv", "/", "/srv//fast/"):
        problem(await client.post("/storage", json={"name": "other", "path": path}), 409, "storage-overlaps")
    assert (await client.post("/storage", json={"name": "faster", "path": "/srv/faster"})).status_code == 202
    problem(await client.delete("/storage/local"), 409, "storage-in-use")
    assert (await client.delete("/storage/fast")).status_code == 202
    problem(await client.post("/storage", json={"name": "rel", "path": "srv"}), 422, "invalid-fields")
    problem(await client.post("/storage", json={"name": "up", "path": "/srv/../etc"}), 422, "storage-path-climbs")


async def test_hosts_are_shown(client, world):
    assert (await client.get("/hosts/here")).json()["status"]["cpu_model"] == "qemu64"
    assert (await client.get(f"/hosts/{world.host.uid}")).json()["metadata"]["name"] == "here"


async def test_directories_are_adopted_by_a_task(client, world):
    task = (await client.post("/adopt", json={"directories": ["/srv/old"], "new_identity": True})).json()
    assert task["spec"]["action"] == "adopt"
    assert task["spec"]["params"]["directories"] == ["/srv/old"]
    task = (await client.post("/adopt", json={"storage": "local", "dead": "old-host"})).json()
    assert task["spec"]["params"]["storage"] == world.storage.uid
    problem(await client.post("/adopt", json={}), 422, "adopt-nothing")
    for where in ({"storage": "local"}, {"directories": ["/srv/one", "/srv/two"]}):
        problem(await client.post("/adopt", json={**where, "name": "web2"}), 422, "adopt-name-for-several")
    networks = {"lab": "nowhere"}
    problem(await client.post("/adopt", json={"storage": "local", "networks": networks}), 404, "no-such-reference")
    sent = {"upload": "upload-1", "networks": networks}
    problem(await client.post(f"{INSIDE}/vms/import", json=sent), 404, "no-such-reference")
    networks = {"lab": world.network.name}
    task = (
        await client.post("/adopt", json={"directories": ["/srv/old"], "name": "web2", "networks": networks})
    ).json()
    assert (task["spec"]["params"]["name"], task["spec"]["params"]["networks"]) == ("web2", networks)


async def test_a_storage_is_changed_at_the_revision_that_was_read(client, world):
    read = await client.get("/storage/local")
    changes = {"overcommit": True, "reserve_percent": 10, "title": "NVMe", "notes": None}
    answer = await client.patch("/storage/local", json=changes, headers={"if-match": read.headers["etag"]})
    kept = await world.kept.find(ground.Storage, None, "local")
    assert answer.json()["spec"] == kept.spec.model_dump(mode="json")
    assert (kept.spec.overcommit, kept.spec.reserve_percent, kept.metadata.title) == (True, 10, "NVMe")
    assert kept.metadata.generation == 2
    stale = await client.patch("/storage/local", json={"title": "x"}, headers={"if-match": read.headers["etag"]})
    problem(stale, 412, "changed-meanwhile")
    problem(await client.patch("/storage/local", json={"reserve_percent": 95}), 422, "invalid-fields")
    problem(await client.patch("/storage/local", json={"path": "/elsewhere"}), 422, "invalid-fields")
    problem(await client.patch("/storage/nope", json={"title": "x"}), 404, "not-found")


async def test_whatever_has_a_name_can_be_described(client):
    await client.post(f"{INSIDE}/volumes", json={"name": "data", "size": "1G"})
    for path in (f"{INSIDE}/images/tiny", f"{INSIDE}/volumes/data", f"{INSIDE}/networks/default", "/hosts/here"):
        read = await client.get(path)
        said = {"title": "What it is", "tags": ["a"], "notes": None}
        answer = await client.patch(path, json=said, headers={"if-match": read.headers["etag"]})
        assert answer.status_code == 200, answer.text
        about = (await client.get(path)).json()["metadata"]
        assert (about["title"], about["tags"], about["notes"]) == ("What it is", ["a"], "")
        assert answer.json()["spec"] == read.json()["spec"]
        stale = await client.patch(path, json={"title": "x"}, headers={"if-match": read.headers["etag"]})
        problem(stale, 412, "changed-meanwhile")
        problem(await client.patch(path, json={"spec": {}}), 422, "invalid-fields")
        if not path.startswith("/hosts"):
            gone = await client.delete(path, headers={"if-match": read.headers["etag"]})
            problem(gone, 412, "changed-meanwhile")
            assert (await client.get(path)).status_code == 200


async def test_what_it_can_do_is_listed_by_name(client):
    names = (await client.get("/extensions")).json()
    assert names == sorted(names)
    assert "vm-clone" in names
    assert (await client.get("/version")).json()["api"] == 1
