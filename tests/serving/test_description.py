"""The OpenAPI description is true: what it allows is answered, what it forbids is refused."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from asking import Open
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from on_socket import on_socket
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS

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


# Whether a text holds words of the catalog, or a string an image, is beyond a schema.
MEANING_DECIDES = ("POST /v1/items", "POST /v2/models/{name}/infer")


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_the_server_does_what_its_description_says(described: Any, mode: GenerationMode) -> None:
    operations = [result.ok() for result in described.get_all_operations()]
    assert len(operations) >= 10

    for operation in operations:
        unfit = []
        if operation.label in MEANING_DECIDES:
            unfit = CHECKS.get_by_names(["positive_data_acceptance"])
        check(operation, mode, unfit)


def check(operation: Any, mode: GenerationMode, unfit: list[Any]) -> None:
    @settings(
        max_examples=10,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def holds(case: Case) -> None:
        case.call_and_validate(excluded_checks=unfit)

    with suppress(Unsatisfiable):  # nothing can be wrong with a request without parameters
        holds()


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
    wrong = client.post("/v2/models/bbqrec/infer", json={"inputs": [{**tensor, "shape": [3]}]})

    outputs = {output["name"]: output for output in inferred["outputs"]}
    assert inferred["id"] == "7"
    assert outputs["item_ids"]["shape"] == [2, 3]
    assert outputs["item_ids"]["data"] == [i["item_id"] for a in answers for i in a["items"]]
    assert outputs["is_fallback"]["data"] == [True, True]
    assert wrong.status_code == 422
    assert client.get("/v2/models/bbqrec/ready").json() == {"name": "bbqrec", "ready": True}
    assert client.get("/v2/models/other").status_code == 404
