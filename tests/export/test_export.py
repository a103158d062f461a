"""An export computes what the run computes, says what it is, and never half replaces anything."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tiny_run import draw_tiny_shop, tiny_config
from typer.testing import CliRunner

from bbqrec import Recommender
from bbqrec.bundle import RunFolder
from bbqrec.cli import app
from bbqrec.data import read_semantic_ids
from bbqrec.decoding import GenerativeRanker, PrefixIndex
from bbqrec.errors import ExportError, MissingDependencyError, StorageError
from bbqrec.export import TOLERANCE, export_run
from bbqrec.export.graph_files import GraphFile
from bbqrec.export.onnx_check import check_graphs
from bbqrec.pipeline import run_stages
from bbqrec.ranking import Histories
from bbqrec.recommender import graphs
from bbqrec.serving import EventStore
from bbqrec.storage import read_json, sha256_file

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = pytest.mark.timeout(900)  # an export takes 15 s alone, on shared cores many times that


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_tiny_shop(tmp_path_factory.mktemp("data") / "shop")


@pytest.fixture(scope="module")
def run(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    config = tiny_config(recommender={"neighbors": {"transitions": True}})
    run_stages(RunFolder(folder), config, source=shop, until="train")
    return folder


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "tiny"
    export_run(run, folder)
    return folder


@pytest.fixture(scope="module")
def driver() -> ModuleType:
    """examples/5_onnx_without_bbqrec.py: numpy and onnxruntime alone."""
    path = EXAMPLES / "5_onnx_without_bbqrec.py"
    spec = importlib.util.spec_from_file_location("driver", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def some_histories(recommender: Recommender) -> list[list[str]]:
    known = list(recommender.histories().values())[:25]
    return [*known, [], ["nobody knows this"], max(known, key=len) * 3]


@pytest.mark.parametrize("way", ["rank", "rank_by_hand"])
def test_onnx_ranks_by_the_dense_score_as_the_run_does(
    run: Path, exported: Path, driver: ModuleType, way: str
) -> None:
    recommender = Recommender.from_pretrained(run)
    theirs = driver.Exported(exported)
    histories = [history for history in some_histories(recommender) if history]
    numbers = [theirs.history(history)[0] for history in histories]
    known = [n for n in numbers if n[0] >= 0]
    offsets = torch.tensor([0, *(len(n) for n in known)]).cumsum(0)
    ragged = torch.cat([torch.from_numpy(n) for n in known])

    ours = recommender.ranker.rank(
        Histories(ragged, offsets),
        10,
        exclude_seen=True,
    )

    answered = [h for h, n in zip(histories, numbers, strict=True) if n[0] >= 0]
    for row, history in enumerate(answered):
        found = getattr(theirs, way)(history, 10)
        assert [item for item, _ in found] == ours.items[row].tolist()
        scores = torch.tensor([score for _, score in found])
        torch.testing.assert_close(scores, ours.scores[row], atol=TOLERANCE, rtol=0)


@pytest.fixture(scope="module", params=[True, False], ids=["neighbors", "repeats alone"])
def generating(
    shop: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Path:
    """A run that walks down the tree of semantic IDs, with its export beside it."""
    folder = tmp_path_factory.mktemp("tree")
    recommender = {"decoder": "tree", "neighbors": {"enabled": request.param}}
    config = tiny_config(recommender=recommender, ranking={"rank_by": "generative"})
    run_stages(RunFolder(folder / "run"), config, source=shop, until="train")
    export_run(folder / "run", folder / "exported")
    return folder


def test_onnx_walks_down_the_tree_as_the_run_does(generating: Path, driver: ModuleType) -> None:
    run, exported = generating / "run", generating / "exported"

    test_onnx_generates_the_items_that_the_run_generates(run, exported, driver, 10)


@pytest.mark.parametrize("beam_width", [2, 60])
def test_onnx_generates_the_items_that_the_run_generates(
    run: Path, exported: Path, driver: ModuleType, beam_width: int
) -> None:
    recommender = Recommender.from_pretrained(run)
    theirs = driver.Exported(exported)
    index = PrefixIndex.build(recommender.semantic_ids)
    ranker = GenerativeRanker(recommender.model, index, beam_width)  # type: ignore[arg-type]
    cases = recommender.dataset.test.histories

    ours = ranker.rank(cases.to_histories(), 2, exclude_seen=True)

    for row in range(20):
        history = [recommender.dataset.item_ids[item] for item in cases.row(row)]
        found = theirs.generate(history, 2, beam_width)
        assert [item for item, _ in found] == [i for i in ours.items[row].tolist() if i >= 0]
        scores = torch.tensor([score for _, score in found])
        expected = ours.scores[row][: len(found)]
        torch.testing.assert_close(scores, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, 40)])
def test_the_torch_program_computes_what_the_onnx_graph_does(
    exported: Path, driver: ModuleType, shape: tuple[int, int]
) -> None:
    history = torch.randint(50, shape, generator=torch.Generator().manual_seed(0))
    history[0, -1] = -1
    program = torch.export.load(exported / "torch" / "scores.pt2")

    found = program.module()(history)

    session = driver.Exported(exported).graphs["scores"]
    (expected,) = session.run(None, {"history": history.numpy()})
    torch.testing.assert_close(found, torch.from_numpy(expected), atol=TOLERANCE, rtol=0)


def test_the_manifest_names_every_file_by_digest_and_the_model_by_version(
    run: Path, exported: Path
) -> None:
    manifest = json.loads((exported / "manifest.json").read_text())

    files = {p.relative_to(exported).as_posix() for p in exported.rglob("*") if p.is_file()}
    assert files == {*manifest["sha256"], "manifest.json"}
    for name, digest in manifest["sha256"].items():
        assert sha256_file(exported / name) == digest
    assert manifest["model_version"] == RunFolder(run).model_version()
    assert max(manifest["agreement"]["largest_difference"].values()) <= TOLERANCE
    guide = (exported / "README.md").read_text()
    assert manifest["model_version"] in guide
    for name in [*manifest["graphs"], "item_vectors.npy", "dense_tables.npz", "semantic_ids"]:
        assert name in guide


def test_exported_semantic_ids_come_back_in_either_form(run: Path, exported: Path) -> None:
    recommender = Recommender.from_pretrained(run)
    item_ids = recommender.dataset.item_ids

    for name in ("semantic_ids.parquet", "lcrec/bbqrec.index.json"):
        back = read_semantic_ids(exported / name, item_ids)
        assert torch.equal(back.codes, recommender.semantic_ids.codes)


def test_who_asked_to_be_forgotten_is_not_handed_over(run: Path, tmp_path: Path) -> None:
    served = shutil.copytree(run, tmp_path / "run")
    histories = Recommender.from_pretrained(run).histories()
    first, second, *others = histories
    for place, user_id in (
        (served / "serving" / "events.sqlite3", first),
        (tmp_path / "e", second),
    ):
        store = EventStore(str(place))
        store.forget(user_id)
        store.close()

    for to, options, gone in (
        ("default", [], first),
        ("elsewhere", ["--events", str(tmp_path / "e")], second),
    ):
        command = ["export", str(served), "--to", str(tmp_path / to), "--only-ids", "--histories"]
        assert CliRunner().invoke(app, [*command, *options]).exit_code == 0
        lcrec = tmp_path / to / "lcrec"
        lines = (lcrec / "bbqrec.user2id").read_text().splitlines()
        users = [line.split("\t")[0] for line in lines]
        kept = read_json(lcrec / "bbqrec.inter.json")
        assert users == [user for user in histories if user != gone]
        assert list(kept) == [str(number) for number in range(len(users))]
        items = Recommender.from_pretrained(run).dataset.item_ids
        assert [items[item] for item in kept[str(len(users) - 1)]] == histories[others[-1]]


def test_what_is_handed_over_with_histories_can_be_trained_on(run: Path, tmp_path: Path) -> None:
    export_run(run, tmp_path / "out", with_graphs=False, with_histories=True)
    lcrec = tmp_path / "out" / "lcrec"

    config = tiny_config(
        semantic_ids=str(lcrec / "bbqrec.index.json"),
        training={"epochs": 1},
        prepare={"min_item": 1, "min_user": 1},
    )
    again = RunFolder(tmp_path / "again")
    run_stages(again, config, source=lcrec, until="train")

    ours, theirs = Recommender.from_pretrained(run), Recommender.from_pretrained(again.directory)
    assert theirs.histories() == ours.histories()
    for item_id, item in theirs.item_of_id.items():
        codes = ours.semantic_ids.codes[ours.item_of_id[item_id]]
        assert torch.equal(theirs.semantic_ids.codes[item], codes)


def test_nobodys_history_is_handed_over_unasked(run: Path, exported: Path) -> None:
    user_ids = Recommender.from_pretrained(run).dataset.user_ids

    assert not (exported / "lcrec" / "bbqrec.inter.json").exists()
    for path in exported.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert not any(user_id.encode() in content for user_id in user_ids[:20])


def test_a_folder_of_something_else_is_not_replaced(run: Path, tmp_path: Path) -> None:
    thesis = tmp_path / "thesis.tex"
    thesis.write_text("years of work")

    with pytest.raises(StorageError, match="something else than an export"):
        export_run(run, tmp_path, with_graphs=False)

    assert thesis.read_text() == "years of work"


def test_an_older_export_is_replaced(run: Path, exported: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "copy"))

    export_run(run, folder, with_graphs=False)

    assert not (folder / "onnx").exists()
    assert (folder / "semantic_ids.parquet").is_file()


def test_a_graph_that_computes_something_else_is_found_out(run: Path, exported: Path) -> None:
    recommender = Recommender.from_pretrained(run)
    others = graphs(recommender.model)  # type: ignore[arg-type]
    with torch.no_grad():
        others["encoder"].module.get_parameter("model.encoder.norm.weight").mul_(1.1)
    files = [
        GraphFile(name, graph, f"onnx/{name}.onnx", f"torch/{name}.pt2")
        for name, graph in others.items()
    ]

    with pytest.raises(ExportError, match="the ONNX graph encoder is off by"):
        check_graphs(exported, files, recommender)


def test_graphs_without_their_libraries_are_refused_with_the_remedy(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)

    with pytest.raises(MissingDependencyError, match=r"pip install 'bbqrec\[export\]'"):
        export_run(run, tmp_path / "out")

    assert export_run(run, tmp_path / "out", with_graphs=False).agreement is None
