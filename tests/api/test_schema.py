"""The API's own description: complete, true, and no request that fits it or does not makes a fault of ours.

BOCAGE_SCHEMA_EXAMPLES sets how many requests are made up for each operation (default 8).
"""

import asyncio
import os
import pathlib
import re
import threading
from collections.abc import Iterator
from typing import Any

import hypothesis
import jsonschema_rs
import pytest
import schemathesis
from schemathesis import checks, generation
from schemathesis.specs.openapi import checks as openapi_checks

from bocage import serving
from bocage.api import app as application
from bocage.api import auth, problems, serve
from bocage.model import base, work
from tests.api.conftest import VMS, FakeNode, make_world, over_socket

EXAMPLES = int(os.environ.get("BOCAGE_SCHEMA_EXAMPLES", "8"))
ENDLESS = "event_follow"
PLAIN = {"meta_extensions", "meta_openapi"}  # a list of names, and this description
BREAKS_OFF = "vm_export"  # the node of these tests does


DESCRIBED = application.description()
OPERATIONS = {
    operation["operationId"]: (path, method, operation)
    for path, methods in DESCRIBED["paths"].items()
    for method, operation in methods.items()
}
FUZZED = sorted(OPERATIONS.keys() - {ENDLESS, BREAKS_OFF})


class Daemon(threading.Thread):
    """A real server in a loop of its own, since schemathesis asks from outside of any."""

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__(daemon=True)
        self.path, self.ready = path, threading.Event()
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            asyncio.run(self.serve())
        except Exception as error:
            self.error = error
            self.ready.set()

    async def serve(self) -> None:
        self.loop, self.stopping = asyncio.get_running_loop(), asyncio.Event()
        world, node = await make_world(self.path), FakeNode()
        node.lines = 3
        listener = serve.bind("127.0.0.1:0")
        self.address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.close()
        async with (
            serving.unix(node.app(), world.home.node_socket, mode=0o600),
            serve.serve(world.kept, homes=world.home, host=world.host.uid, listen=self.address[7:]),
            over_socket(world) as client,
        ):
            self.token = (await client.post("/tokens", json={"name": "fuzz"})).json()["token"]
            await client.post(VMS, json={"name": "web1", "image": "tiny", "cds": ["windows"]})
            self.ready.set()
            await self.stopping.wait()
        await world.kept.store.close()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    running = Daemon(tmp_path_factory.mktemp("api"))
    running.start()
    assert running.ready.wait(30)
    assert running.error is None, running.error
    yield running
    running.loop.call_soon_threadsafe(running.stopping.set)
    running.join(30)
    assert not running.is_alive()


SCHEMA = schemathesis.openapi.from_dict(DESCRIBED)


@pytest.mark.parametrize("mode", [generation.GenerationMode.POSITIVE, generation.GenerationMode.NEGATIVE])
@pytest.mark.parametrize("operation_id", FUZZED)
def test_no_request_makes_a_fault_and_every_answer_is_as_described(daemon, operation_id, mode):
    operation = SCHEMA.find_operation_by_id(operation_id)
    if mode is generation.GenerationMode.NEGATIVE and not any(
        (*operation.path_parameters, *operation.query, *operation.headers, *operation.body)
    ):
        return

    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    )
    def ask(case):
        case.call_and_validate(
            base_url=daemon.address,
            headers={"authorization": f"Bearer {daemon.token}"},
            checks=[
                checks.not_a_server_error,
                openapi_checks.status_code_conformance,
                openapi_checks.content_type_conformance,
                openapi_checks.response_schema_conformance,
            ],
            timeout=30,
        )

    ask()


def test_every_operation_is_described_whole():
    assert DESCRIBED["openapi"] == "3.1.0"
    assert len(OPERATIONS) == sum(map(len, DESCRIBED["paths"].values()))
    for operation_id, (path, _, operation) in OPERATIONS.items():
        noun, _, verb = operation_id.partition("_")
        assert operation["tags"] == [noun]
        assert verb
        assert operation["description"], operation_id
        assert {"401", "403", "422", "500", "503"} <= operation["responses"].keys(), operation_id
        for status, answer in operation["responses"].items():
            if status >= "400":
                assert list(answer["content"]) == [problems.MEDIA_TYPE], (operation_id, status)
            elif status != "204":
                assert answer.keys() & {"content", "headers"}, (operation_id, status)
        if "{name}" in path or "{uid}" in path:
            assert "404" in operation["responses"], operation_id


def test_every_reference_of_the_description_is_there():
    def references(part: Any) -> Iterator[str]:
        if isinstance(part, dict):
            if "$ref" in part:
                yield part["$ref"].removeprefix("#/components/schemas/")
            for inner in part.values():
                yield from references(inner)
        elif isinstance(part, list):
            for inner in part:
                yield from references(inner)

    assert set(references(DESCRIBED)) <= DESCRIBED["components"]["schemas"].keys()


def test_the_examples_are_taken_by_what_they_are_examples_of():
    from bocage.api import examples, plans
    from bocage.model import requests

    for cls, shown in (
        (requests.VMCreate, examples.VM_CREATE),
        (requests.VMPatch, examples.VM_PATCH),
        (requests.Document, examples.DOCUMENT),
        (requests.ImageAdd, examples.IMAGE_ADD),
        (plans.PlaceRequest, examples.PLAN_PLACE),
        (plans.RebalanceRequest, examples.PLAN_REBALANCE),
    ):
        for example in shown.values():
            cls.model_validate(example["value"])


def test_every_body_and_every_answer_has_an_example_that_fits_its_schema():
    components = DESCRIBED["components"]
    for operation_id, (_, _, operation) in OPERATIONS.items():
        done = [answer for status, answer in operation["responses"].items() if status < "300"]
        for part in [operation.get("requestBody") or {}, *done]:
            content = (part.get("content") or {}).get("application/json") or {}
            if operation_id in PLAIN or not content:
                continue
            schema = content["schema"]
            shown = [one["value"] for one in content.get("examples", {}).values()]
            for ref in [schema, *schema.get("anyOf", ())]:
                shown += components["schemas"].get(ref.get("$ref", "").rpartition("/")[2], {}).get("examples", [])
            assert shown, operation_id
            for example in shown:
                jsonschema_rs.validator_for({**schema, "components": components}).validate(example)


def test_a_message_that_is_shown_has_words_in_the_description_too():
    task = work.Task(
        metadata=base.Metadata(name="x", project="default"),
        spec=work.TaskSpec(action="vm.start"),
        status=work.TaskStatus(step=base.Saying.of(auth.TokenNeeded())),
    )
    shown = task.model_dump(mode="json", context=base.WORDS)["status"]["step"]
    assert shown.keys() <= DESCRIBED["components"]["schemas"]["Saying"]["properties"].keys()
    assert "text" in shown


def test_the_page_on_the_api_names_every_address():
    page = pathlib.Path(__file__).parents[2].joinpath("docs", "api.md").read_text()
    block = page.partition("## Every address")[2].split("```")[1]
    named = [line.split()[0] for line in block.strip().splitlines()]
    there = [path.removeprefix("/api/v1").replace("{project}", "{p}") for path in DESCRIBED["paths"]]
    assert sorted(named) == sorted(re.sub(r"{(\w+)}", lambda found: found[1].upper(), path) for path in there)
