"""The OpenAPI description is true: what it allows is answered, what it forbids is refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from asking import Open
from on_socket import on_socket
from schemathesis import engine
from schemathesis.engine.events import FatalError, NonFatalError, ScenarioFinished

from bbqrec.serving import EventStore, ServeConfig, Service


@pytest.fixture(scope="module")
def address(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server on a socket, in this process."""
    store = EventStore(str(tmp_path_factory.mktemp("described") / "events.sqlite3"))
    service = Service(run, store, ServeConfig(max_beam=1000, kserve=True))
    with on_socket(service) as address:
        yield address


@pytest.fixture(scope="module")
def described(address: str) -> Any:
    return schemathesis.openapi.from_url(f"{address}/openapi.json")


# What no schema can say, by operation and check.
BEYOND_A_SCHEMA = {
    # Whether a text holds words of the catalog, or a string an image or a history.
    ("POST /v1/items", "positive_data_acceptance"),
    ("POST /v2/models/{name}/infer", "positive_data_acceptance"),
    # `DELETE /v1/items/a/similar` withdraws the item "a/similar", and `Allow` says so.
    ("GET /v1/items/{item_id}/similar", "allow_header_conformance"),
}
REFUSED = [400, 404, 405, 409, 413, 415, 422]  # a list that is too long may be too many bytes


@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")  # of Schemathesis' ways
def test_the_server_does_what_its_description_says(described: Any) -> None:
    """Every check of Schemathesis: on examples, on each limit of the schemas, on drawn requests."""
    config = described.config
    config.update(continue_on_failure=True, workers=1)
    config.seed = 0
    config.generation.update(max_examples=20, deterministic=True, no_shrink=True)
    config.phases.update(phases=["examples", "coverage", "fuzzing"])
    config.checks.negative_data_rejection.expected_statuses = [str(code) for code in REFUSED]
    failures, errors, labels, num_checks = [], [], set(), 0

    for event in engine.from_schema(described).execute():
        assert not isinstance(event, FatalError), event
        if isinstance(event, NonFatalError):
            errors.append(event.info.format())
        if isinstance(event, ScenarioFinished):
            labels.add(event.recorder.label)
            checks = [check for found in event.recorder.checks.values() for check in found]
            num_checks += len(checks)
            for check in checks:
                is_known = (event.recorder.label, check.name) in BEYOND_A_SCHEMA
                if check.failure_info is not None and not is_known:
                    info = check.failure_info
                    failures.append(f"{info.failure}\n{info.code_sample[:2000]}")

    assert not errors, errors
    assert not failures, "\n\n".join(failures[:5])
    assert len(labels) >= 20
    assert num_checks > 3000


def test_the_page_of_the_description_needs_nobody_else(address: str) -> None:
    page = httpx.get(f"{address}/docs")

    assert page.status_code == 200
    assert "http" not in page.text.replace(address, "")
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert f"/static-offline-docs/{asset}" in page.text
        assert httpx.get(f"{address}/static-offline-docs/{asset}").status_code == 200
    assert httpx.get(f"{address}/openapi.json").json()["openapi"].startswith("3.1")
    assert httpx.get(address).status_code == 200


def test_the_inference_protocol_gives_the_same_answers(opened: Open) -> None:
    client = opened(kserve=True)
    asked = {"histories": [["a"], []], "k": 3}
    answers = client.post("/v1/recommend", json=asked).json()["answers"]
    tensor = {"name": "histories", "shape": [2], "datatype": "BYTES", "data": ['["a"]', "[]"]}
    body = {"id": "7", "inputs": [tensor], "parameters": {"k": 3}}

    inferred = client.post("/v2/models/bbqrec/infer", json=body).json()
    url = "/v2/models/bbqrec/infer"
    wrong = [
        client.post(url, json={"inputs": [{**tensor, **change}]}).status_code
        for change in ({"shape": [3]}, {"shape": [1, 2]}, {"shape": [2, 2]}, {"data": [["a", "b"]]})
    ]
    column = {**tensor, "shape": [2, 1], "parameters": {"content_type": "str", "x": 1}}
    nested = {**column, "data": [['["a"]'], ["[]"]]}
    columns = [client.post(url, json={**body, "inputs": [t]}).json() for t in (column, nested)]
    some = client.post(
        url,
        json={**body, "outputs": [{"name": "is_fallback", "parameters": {"binary_data": False}}]},
    ).json()
    unknown = client.post(url, json={**body, "outputs": [{"name": "scores"}]})

    outputs = {output["name"]: output for output in inferred["outputs"]}
    assert inferred["id"] == "7"
    assert outputs["item_ids"]["shape"] == [2, 3]
    assert outputs["item_ids"]["data"] == [i["item_id"] for a in answers for i in a["items"]]
    assert outputs["is_fallback"]["data"] == [True, True]
    assert wrong == [422] * 4
    assert columns == [inferred] * 2
    assert some["outputs"] == [outputs["is_fallback"]]
    assert unknown.status_code == 422
    assert client.get("/v2/models/bbqrec/ready").json() == {"name": "bbqrec", "ready": True}
    assert client.get("/v2/models/other").status_code == 404
