import io
import pathlib
import tarfile
import threading
from collections.abc import Iterator

import pytest
import zstandard
from websockets.sync import server as ws

from bocage import client, errors
from bocage.client import archives, connection, console, problems, rest, streams, typed
from bocage.model import requests, vm
from tests import fake_api
from tests.fake_api import TASK_UID, FakeApi, Reply, listed, problem, task

VMS = "/projects/default/vms"


@pytest.fixture
def api(tmp_path: pathlib.Path) -> Iterator[FakeApi]:
    yield from fake_api.serving(tmp_path / "api.sock")


@pytest.fixture
def here(api: FakeApi) -> Iterator[client.Client]:
    with client.connect(client.Address(socket=str(api.path))) as found:
        yield found


# addresses and names


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:8480", "http://127.0.0.1:8480"),
        ("https://host.example", "https://host.example:443"),
        ("http://host.example/", "http://host.example:8480"),
        ("unix:///run/bocage/api.sock", "/run/bocage/api.sock"),
    ],
)
def test_urls_are_read(url: str, said: str):
    assert str(client.Address.from_url(url)) == said


@pytest.mark.parametrize(
    "url", ["", "host:8480", "ftp://host", "http://", "unix://", "http://host:none", "http://h:99999"]
)
def test_what_is_no_url_of_an_api_is_refused(url: str):
    with pytest.raises(connection.BadUrl):
        client.Address.from_url(url)


def test_a_token_goes_with_each_request_and_is_not_shown(api: FakeApi):
    address = client.Address(socket=str(api.path), token="bcg_secret")
    api.on("GET", "/whoami", {"name": "x"})
    with client.connect(address) as found:
        found.whoami()
    assert api.asked[0].headers["Authorization"] == "Bearer bcg_secret"
    assert "secret" not in repr(address)


@pytest.mark.parametrize("name", ["..", ".", "", "a/b", "a?b", "A", "a%2fb", "ä", "a" * 64, "a\n"])
def test_what_is_no_name_never_reaches_a_path(here: client.Client, api: FakeApi, name: str):
    with pytest.raises(connection.BadName):
        here.vms.get(name)
    assert api.asked == []


# requests and what goes wrong with them


def test_a_problem_carries_what_the_api_said(here: client.Client, api: FakeApi):
    faults = [{"path": "memory", "wrong": "too small", "right": "16M"}]
    api.on("POST", VMS, problem(422, "invalid-fields", "memory: too small", "see below", faults=faults, extra=3))
    with pytest.raises(client.ProblemError) as caught:
        here.vms.create({"name": "a"})
    found = caught.value
    assert (found.problem, found.http_status, found.sentence) == ("invalid-fields", 422, "memory: too small")
    assert (found.advice, found.faults, found.details) == ("see below", faults, {"extra": 3})
    assert str(found) == "memory: too small"


def test_braces_in_a_sentence_are_only_braces(here: client.Client, api: FakeApi):
    api.on("GET", f"{VMS}/a", problem(404, "x", "{0} and {name} are not there"))
    with pytest.raises(client.ProblemError, match=r"\{0\} and \{name\} are not there"):
        here.vms.get("a")


def test_nobody_at_the_socket_is_told_with_the_address(tmp_path: pathlib.Path):
    with (
        client.connect(client.Address(socket=str(tmp_path / "none"))) as found,
        pytest.raises(client.Unreachable) as no,
    ):
        found.version()
    assert no.value.address == str(tmp_path / "none")


def test_a_read_is_asked_again_when_the_connection_breaks(here: client.Client, api: FakeApi):
    api.on("GET", "/version", Reply(hang_up=True), {"version": "1"})
    assert here.version() == {"version": "1"}


def test_a_create_is_sent_again_with_the_same_key(here: client.Client, api: FakeApi):
    api.on("POST", VMS, Reply(hang_up=True), Reply(task(), 202))
    here.vms.create({"name": "a"})
    first, second = api.asked
    assert first.headers["Idempotency-Key"] == second.headers["Idempotency-Key"]
    assert first.body == second.body


def test_a_deletion_is_not_sent_twice(here: client.Client, api: FakeApi):
    api.on("DELETE", f"{VMS}/a", Reply(hang_up=True))
    with pytest.raises(client.Broken):
        here.vms.remove("a")
    assert len(api.asked) == 1


def test_after_a_broken_connection_the_client_goes_on(here: client.Client, api: FakeApi):
    api.on("DELETE", f"{VMS}/a", Reply(hang_up=True), Reply(task(), 202))
    with pytest.raises(client.Broken):
        here.vms.remove("a")
    assert here.vms.remove("a")["metadata"]["uid"] == TASK_UID


def test_an_answer_that_does_not_come_is_given_up_at_the_bound(here: client.Client, api: FakeApi):
    held = threading.Event()

    def hold(asked: fake_api.Asked) -> Reply:
        held.wait(10)
        return Reply({})

    api.on("GET", "/version", hold)
    with pytest.raises(errors.TimedOut):
        here.version(within=0.05)
    held.set()


def test_lists_are_read_page_by_page_up_to_a_limit(here: client.Client, api: FakeApi):
    pages = [listed(*[fake_api.vm(f"vm{n}") for n in range(3)], after="c1"), listed(fake_api.vm("vm3"))]
    api.on("GET", VMS, *pages)
    assert [one["metadata"]["name"] for one in here.vms.list()["items"]] == ["vm0", "vm1", "vm2", "vm3"]
    api.on("GET", VMS, pages[0])
    assert len(here.vms.list(limit=3)["items"]) == 3


def test_requests_are_plain_documents_or_the_models(here: client.Client, api: FakeApi):
    api.on("POST", VMS, Reply(task(), 202))
    here.vms.create(requests.VMCreate(name="a", image="tiny", memory="1G"))
    assert api.asked[0].document == {"name": "a", "image": "tiny", "memory": "1G"}


def test_documents_become_the_models_types():
    document = fake_api.vm("web1", state="stopped", reason={"type": "x", "params": {}, "text": "said", "hint": ""})
    document["spec"]["storage"] = fake_api.VM_UID
    document["spec"]["hardware"] = {
        "machine": "pc-q35-7.2",
        "cpu_model": "Westmere-v1",
        "smbios": {"uuid": fake_api.VM_UID, "serial": "1"},
        "devices": {},
    }
    document["spec"]["boot"] = {"order": []}
    found = typed.read(vm.VM, document)
    assert (found.name, found.spec.cpus.count, str(found.spec.memory)) == ("web1", 2, "512M")
    assert found.status.state is vm.State.STOPPED


def test_waiting_tells_progress_and_ends_at_its_bound(here: client.Client, api: FakeApi):
    api.on("GET", f"/tasks/{TASK_UID}", task(state="running"), task(state="done"))
    seen: list[str] = []
    ended = here.tasks.wait(task(), on_progress=lambda one: seen.append(one["status"]["state"]), every=0.1)
    assert (ended["status"]["state"], seen) == ("done", ["running", "done"])
    api.on("GET", f"/tasks/{TASK_UID}", task(state="running"))
    assert not rest.ended(here.tasks.wait(task(), every=0.01, timeout=0.05))


# streams


def test_server_sent_events_are_read_as_the_standard_says():
    stream = io.BytesIO(
        b': heartbeat\n\nid: 5\nevent: vm\ndata: {"a":\ndata: 1}\n\nid:6\r\nevent:event\r\ndata:2\r\n\r\ndata: "cut sho'
    )
    found = [(one.revision, one.kind, one.data) for one in streams.parse(stream)]
    assert found == [("5", "vm", {"a": 1}), ("6", "event", 2)]


def test_events_go_on_after_the_last_one_when_the_connection_breaks(here: client.Client, api: FakeApi):
    api.on(
        "GET",
        "/events/stream",
        Reply(b'id: 7\nevent: event\ndata: "one"\n\n'),
        Reply(hang_up=True),
        Reply(b'id: 9\nevent: event\ndata: "two"\n\n'),
    )
    coming = streams.changes(here.connection, kinds="event", since="3")
    assert [next(coming).data, next(coming).data] == ["one", "two"]
    assert ["since=3" in api.asked[0].path, *("since=7" in one.path for one in api.asked[1:])] == [True, True, True]


def test_events_that_are_gone_are_told(here: client.Client, api: FakeApi):
    api.on("GET", "/events/stream", problem(410, "compacted", "these are forgotten"))
    with pytest.raises(client.ProblemError, match="forgotten"):
        next(streams.changes(here.connection, since="1"))


class Uploads:
    """The server's side of an upload that can be gone on with."""

    def __init__(self, api: FakeApi, *, held: bytes = b"", break_at: int | None = None) -> None:
        self.held, self.break_at = held, break_at
        api.on("GET", "/uploads/key", self.offset)
        api.on("PATCH", "/uploads/key", self.take)

    def offset(self, asked: fake_api.Asked) -> Reply:
        return Reply(b"", 200, {"Upload-Offset": str(len(self.held))})

    def take(self, asked: fake_api.Asked) -> Reply:
        offset = int(asked.headers["Upload-Offset"])
        if offset != len(self.held):
            return problem(409, "upload-offset", "another offset is expected")
        if self.break_at is not None:
            self.held += asked.body[: self.break_at]
            self.break_at = None
            return Reply(hang_up=True)
        self.held += asked.body
        return Reply(None, 204)


def test_an_upload_goes_on_where_it_broke_off(
    here: client.Client, api: FakeApi, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(streams, "_UPLOAD_PIECE", 1000)
    content = bytes(range(256)) * 20
    (tmp_path / "image").write_bytes(content)
    uploads = Uploads(api, held=content[:300], break_at=123)
    told: list[tuple[int, int]] = []
    streams.upload(here, "key", str(tmp_path / "image"), on_progress=lambda sent, total: told.append((sent, total)))
    assert uploads.held == content
    assert told[0] == (300, len(content))
    assert told[-1] == (len(content), len(content))


def test_a_file_that_became_shorter_is_not_sent_as_if_it_were_whole(
    here: client.Client, api: FakeApi, tmp_path: pathlib.Path
):
    (tmp_path / "image").write_bytes(b"short")
    Uploads(api, held=b"much longer")
    with pytest.raises(streams.Shrunk):
        streams.upload(here, "key", str(tmp_path / "image"))


# the console


def test_a_console_carries_bytes_both_ways_and_says_why_it_was_refused(tmp_path: pathlib.Path):
    path = str(tmp_path / "ws.sock")

    def serve(socket: ws.ServerConnection) -> None:
        assert socket.request
        if "take=true" in socket.request.path:
            socket.close(4409, "somebody else writes")
            return
        assert socket.request.path == "/api/v1/projects/default/vms/web1/console?write=true&take=false"
        socket.send(b"login: ")
        socket.send(b"you said " + bytes(socket.recv()))  # type: ignore[arg-type]

    with ws.unix_serve(serve, path) as server, client.connect(client.Address(socket=path)) as found:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with console.attach(found, "web1") as attached:
            assert attached.receive() == b"login: "
            assert attached.send(b"\x1b[A")
            assert attached.receive() == b"you said \x1b[A"
            assert attached.receive() is None
        with console.attach(found, "web1", take=True) as attached, pytest.raises(client.ProblemError) as refused:
            attached.receive()
        server.shutdown()
    assert (refused.value.http_status, str(refused.value)) == (409, "somebody else writes")


@pytest.mark.parametrize("code", [1000, 1001, 1011, None])
def test_a_console_tells_the_end_of_its_vm_from_that_of_the_connection(tmp_path: pathlib.Path, code: int | None):
    path = str(tmp_path / "ws.sock")

    def serve(socket: ws.ServerConnection) -> None:
        if code is None:
            socket.socket.shutdown(2)
        else:
            socket.close(code, "web1 is off" if code == 1000 else "")

    with ws.unix_serve(serve, path) as server, client.connect(client.Address(socket=path)) as found:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with console.attach(found, "web1") as attached:
            if code == 1000:
                assert (attached.receive(), attached.farewell) == (None, "web1 is off")
            else:
                with pytest.raises(console.Lost):
                    attached.receive()
        server.shutdown()


def test_a_console_of_a_daemon_that_is_not_there_is_unreachable(tmp_path: pathlib.Path):
    address = client.Address(socket=str(tmp_path / "none"))
    with client.connect(address) as found, pytest.raises(client.Unreachable), console.attach(found, "web1"):
        pass


# archives


@pytest.fixture
def exported(tmp_path: pathlib.Path) -> pathlib.Path:
    """A directory as `vm export` leaves it: a file with a hole, one in a directory below."""
    directory = tmp_path / "web1"
    (directory / "disks").mkdir(parents=True)
    (directory / "vm.yaml").write_text("kind: VM\n")
    with (directory / "disks" / "disk0.raw").open("wb") as file:
        file.write(b"boot")
        file.seek(32 << 20)
        file.write(b"end")
    return directory


def test_a_directory_is_packed_and_unpacked_with_its_holes_and_checksums(
    exported: pathlib.Path, tmp_path: pathlib.Path
):
    taken = archives.unpack(archives.pack(exported), tmp_path / "copy")
    copy = tmp_path / "copy" / "disks" / "disk0.raw"
    assert copy.read_bytes() == (exported / "disks" / "disk0.raw").read_bytes()
    assert copy.stat().st_blocks * 512 < 4 << 20
    assert taken > 32 << 20
    assert (tmp_path / "copy" / archives.SUMS).read_text().count("\n") == 2
    assert archives.unpack(archives.pack(tmp_path / "copy"), tmp_path / "again") > 32 << 20


def test_an_archive_is_one_that_tar_and_sha256sum_read(exported: pathlib.Path, tmp_path: pathlib.Path):
    stream = b"".join(archives.pack(exported))
    reader = zstandard.ZstdDecompressor().stream_reader(stream, read_across_frames=True)
    with tarfile.open(fileobj=reader, mode="r|") as tar:
        assert [member.name for member in tar] == ["bocage-archive.json", "disks/disk0.raw", "vm.yaml", "SHA256SUMS"]


@pytest.mark.parametrize("damage", ["cut", "flip", "sums", "path", "link"])
def test_a_damaged_archive_leaves_nothing_behind(exported: pathlib.Path, tmp_path: pathlib.Path, damage: str):
    stream = b"".join(archives.pack(exported))
    if damage == "cut":
        stream = stream[: len(stream) // 2]
    elif damage == "flip":
        stream = stream[:-200] + bytes([stream[-200] ^ 255]) + stream[-199:]
    else:
        stream = forged(damage)
    with pytest.raises(archives.Damaged):
        archives.unpack(iter([stream]), tmp_path / "copy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["web1"]


def forged(how: str) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        member = tarfile.TarInfo("../evil" if how == "path" else "vm.yaml")
        if how == "link":
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/shadow"
            tar.addfile(member)
        else:
            member.size = 3
            tar.addfile(member, io.BytesIO(b"abc"))
        sums = f"{'0' * 64}  vm.yaml\n".encode()
        last = tarfile.TarInfo("SHA256SUMS")
        last.size = len(sums)
        tar.addfile(last, io.BytesIO(sums))
    return zstandard.ZstdCompressor().compress(plain.getvalue())


def test_a_directory_whose_files_changed_is_not_packed(exported: pathlib.Path, tmp_path: pathlib.Path):
    archives.unpack(archives.pack(exported), tmp_path / "copy")
    (tmp_path / "copy" / "vm.yaml").write_text("kind: other\n")
    with pytest.raises(archives.Damaged, match=r"vm\.yaml"):
        b"".join(archives.pack(tmp_path / "copy"))


def test_unpacking_over_something_is_refused(exported: pathlib.Path, tmp_path: pathlib.Path):
    with pytest.raises(FileExistsError):
        archives.unpack(archives.pack(exported), exported)
    assert (exported / "vm.yaml").read_text() == "kind: VM\n"


def test_what_is_no_problem_document_is_told_as_it_is():
    found = problems.read(502, b"Bad Gateway", address="http://x")
    assert isinstance(found, problems.NoApi)
    assert "Bad Gateway" in str(found)
