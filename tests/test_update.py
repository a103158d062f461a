"""A run that lives: new data become its next version, and whatever happens one version serves."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
import torch
from starlette.testclient import TestClient
from tiny_run import draw_tiny_shop, tiny_config
from typer.testing import CliRunner

from bbqrec.bundle import STAGE_FOLDERS, RunFolder
from bbqrec.cli import app
from bbqrec.data import Collected, Event
from bbqrec.errors import ConfigError, CorruptArtifactError, StorageError
from bbqrec.evaluation import EvaluationConfig, evaluate
from bbqrec.lineage import finished_versions, lineage, use_version
from bbqrec.new_items import ranker_before
from bbqrec.news import News
from bbqrec.pipeline import run_stages
from bbqrec.recommend import Recommender
from bbqrec.serving import (
    EventStore,
    Options,
    PostedItem,
    ServeConfig,
    Service,
    Version,
    create_app,
)
from bbqrec.serving.store import read_collected
from bbqrec.storage import read_json, read_tensors, sha256_file
from bbqrec.update import update_run

NUM_HELD_BACK = 5
NEAR = {"recommender": {"neighbors": {"transitions": True}}}
CONFIG = tiny_config(**NEAR)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that ever happens in the shop."""
    return draw_tiny_shop(tmp_path_factory.mktemp("shop") / "shop")


@pytest.fixture(scope="module")
def first(shop: Path) -> Path:
    """A run on the first seven tenths of time, in which some items are not sold yet."""
    part = shutil.copytree(shop, shop.parent / "part")
    log = pl.read_parquet(shop / "interactions.parquet")
    later = log["item_id"].unique().sort()[:NUM_HELD_BACK]
    is_early = (pl.col("timestamp") <= log["timestamp"].quantile(0.7)) & ~pl.col("item_id").is_in(
        later.implode()
    )
    log.filter(is_early).write_parquet(part / "interactions.parquet")
    for name in ("items", "images"):
        table = pl.read_parquet(part / f"{name}.parquet")
        table.filter(~pl.col("item_id").is_in(later.implode())).write_parquet(
            part / f"{name}.parquet"
        )
    run_stages(RunFolder(shop.parent / "first"), CONFIG, source=part, until="train")
    return shop.parent / "first"


@pytest.fixture(scope="module")
def updated(first: Path, shop: Path) -> Path:
    """That run, updated with the whole shop."""
    root = shutil.copytree(first, first.parent / "updated")
    result = update_run(root, News(source=shop))
    assert result.version == 1
    assert result.found.items >= NUM_HELD_BACK
    assert result.found.interactions > 100
    return root


@pytest.fixture
def root(first: Path, tmp_path: Path) -> Path:
    """A run that a test may update."""
    return shutil.copytree(first, tmp_path / "run")


def test_what_was_there_keeps_its_place_and_what_is_new_is_free(first: Path, updated: Path) -> None:
    old, new = RunFolder(first), RunFolder(updated)
    before, after = old.dataset(), new.dataset()

    assert after.item_ids[: before.num_items] == before.item_ids
    codes = new.trained_semantic_ids().codes
    assert torch.equal(codes[: before.num_items], old.trained_semantic_ids().codes)
    assert len(torch.unique(codes, dim=0)) == after.num_items > before.num_items
    for known, grown in zip(old.features(before), new.features(after), strict=True):
        assert torch.equal(grown.vectors[: before.num_items], known.vectors)
        assert grown.is_present[before.num_items :].any()
    trained = Recommender.from_pretrained(updated).model.state_dict()
    untrained = Recommender.from_pretrained(first).model.state_dict()
    for name, table in untrained.items():  # what the tables of old items mean has not moved
        if name.startswith(("catalog.content", "catalog.similarity.")):
            assert torch.equal(trained[name][: before.num_items], table), name
        elif name.startswith(("catalog.edges", "catalog.neighbor_edges")):
            is_refitted = name.endswith(".transition")
            assert torch.equal(trained[name], table) != is_refitted, name
    assert "catalog.neighbor_edges.transition" in untrained
    for version in (old, new):
        given = read_json(version.folder("train") / "model.json")["transitions"]
        assert given["weight"] > 0


def test_the_version_before_stays_loadable_and_can_be_gone_back_to(
    first: Path, updated: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(updated, tmp_path / "run")
    before = Recommender.from_pretrained(first)
    histories = list(before.histories().values())[:20]
    expected = before.recommend(histories, k=5)

    old = Recommender.from_pretrained(root, version=0).recommend(histories, k=5)
    new = Recommender.from_pretrained(root).recommend(histories, k=5)
    by_its_folder = Recommender.from_pretrained(root / "versions" / "1").recommend(histories, k=5)
    use_version(root, 0)
    back = Recommender.from_pretrained(root).recommend(histories, k=5)

    assert old == back == expected
    assert new == by_its_folder != expected
    with pytest.raises(ConfigError, match="has no finished version 7; it has: 0, 1"):
        use_version(root, 7)
    shutil.rmtree(root / "versions")
    use_version(root, 0)
    assert Recommender.from_pretrained(root).recommend(histories, k=5) == expected


def test_before_and_after_are_measured_on_the_same_new_cases(first: Path, updated: Path) -> None:
    """Before is what a server answers from the old run with the new items posted to it."""
    run = RunFolder(updated)
    dataset = run.dataset()
    old = Recommender.from_pretrained(first)
    before = ranker_before(run, dataset)
    assert before is not None
    names = [dataset.item_ids[i] for i in range(old.dataset.num_items, dataset.num_items)]
    store = _posted(run, names)
    server = Version.load(first, store, ())
    histories = [
        [dataset.item_ids[item] for item in dataset.test.histories.row(case)] for case in range(30)
    ]

    answers = server.recommend([tuple(history) for history in histories], Options(10))
    ranking = before.rank(
        dataset.test.take(torch.arange(30).numpy()).histories.to_histories(), 10, exclude_seen=True
    )

    for answer, items in zip(answers, ranking.items.tolist(), strict=True):
        assert [item.item_id for item in answer.items] == [dataset.item_ids[i] for i in items]
    config = EvaluationConfig(num_bootstrap=50)
    evaluation = evaluate({"before": before}, dataset.test, dataset, config)
    changes = read_json(updated / "versions" / "1" / "version.json")["changes"]["test"]
    for setting, result in evaluation.models["before"].items():
        measured = changes[setting]["before"]["metrics"]["ndcg@10"]["mean"]
        assert measured == pytest.approx(result.overall.metrics["ndcg@10"].mean, abs=1e-9)
        after = changes[setting]["after"]
        difference = after["metrics"]["ndcg@10"]["mean"] - measured
        assert after["difference"]["ndcg@10"]["mean"] == pytest.approx(difference, abs=1e-9)


def _posted(run: RunFolder, item_ids: list[str]) -> list[PostedItem]:
    """The new items as somebody would post them, in the order of their numbers."""
    items = pl.read_parquet(run.folder("prepare") / "items.parquet")
    images = pl.read_parquet(run.folder("prepare") / "images.parquet")
    picture = dict(zip(images["item_id"], images["bytes"], strict=True))
    columns = [name for name in items.columns if name != "item_id"]
    rows = {row["item_id"]: row for row in items.iter_rows(named=True)}
    return [
        PostedItem(
            item_id,
            rows[item_id][columns[0]] or "",
            "\n".join(rows[item_id][name] for name in columns[1:] if rows[item_id][name]) or None,
            picture.get(item_id),
        )
        for item_id in item_ids
    ]


def test_the_same_data_again_change_nothing(updated: Path, shop: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in sorted(updated.rglob("*"))}

    result = update_run(updated, News(source=shop))

    assert result.version is None
    assert result.found.interactions == result.found.items == 0
    after = {path: path.stat().st_mtime_ns for path in sorted(updated.rglob("*"))}
    changed = {p.name for p in after if after[p] != before.get(p)} | {
        p.name for p in before - after.keys()
    }
    assert changed <= {".lock", "versions", updated.name}


def test_a_dry_run_says_what_would_come_in_and_changes_nothing(
    first: Path, updated: Path, shop: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in sorted(first.rglob("*"))}

    printed = CliRunner().invoke(
        app, ["update", str(first), "--data", str(shop), "--dry-run", "--json", "-q"]
    )

    values = json.loads(printed.stdout)
    assert values["found"] == lineage(updated)[1].about["found"]
    assert values["seconds"].keys() == {"prepare", "encode", "train", "evaluate"}
    assert values["total_seconds"] > 0
    assert {path: path.stat().st_mtime_ns for path in sorted(first.rglob("*"))} == before


def test_an_update_says_things_once_and_draws_its_curves_in_its_own_folder(
    root: Path, shop: Path
) -> None:
    said = CliRunner().invoke(
        app, ["update", str(root), "--data", str(shop), "--track", "tensorboard"]
    )

    text = " ".join((said.stderr + said.stdout).split())
    assert said.exit_code == 0, said.stderr
    assert text.count("evaluate: not done yet, doing it now") == 1
    assert text.count("new interactions (") == 1
    assert list((root / "versions" / "1" / "tracking").rglob("events.out.*"))
    assert not (root / "tracking").exists()


def test_an_updated_run_is_up_to_date_and_not_prepared_from_its_source_alone(
    updated: Path, first: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(updated, tmp_path / "run")
    run = RunFolder(root)
    stamps = {s: (run.folder(s) / "manifest.json").stat().st_mtime_ns for s in STAGE_FOLDERS}
    held = RunFolder(first).source()
    assert held is not None

    run_stages(run, CONFIG, source=None)
    run_stages(run, CONFIG, source=held.path)

    assert stamps == {
        s: (run.folder(s) / "manifest.json").stat().st_mtime_ns for s in STAGE_FOLDERS
    }
    with pytest.raises(ConfigError, match=r"was updated since .*another prepare.min_user"):
        run_stages(run, tiny_config(**NEAR, prepare={"min_user": 9}), source=None)
    changed = shutil.copytree(held.path, tmp_path / "changed", copy_function=shutil.copy)
    manifest = run.folder("prepare") / "manifest.json"
    manifest.write_text(manifest.read_text().replace(str(held.path.resolve()), str(changed)))
    with pytest.raises(StorageError, match=r"`bbqrec update .*run --data .*changed`"):
        run_stages(run, CONFIG, source=changed)


def test_a_second_update_goes_on_from_the_first(updated: Path, tmp_path: Path) -> None:
    """Scales and centers stay those of the first training: a twin lands where its original is."""
    root = shutil.copytree(updated, tmp_path / "run")
    dataset = RunFolder(root).dataset()
    (original,) = _posted(RunFolder(root), dataset.item_ids[:1])
    twin = original._replace(item_id="twin")
    last = read_tensors(RunFolder(root).folder("prepare") / "log.safetensors")["times"].max()
    events = [Event(user, "twin", float(last) + 9) for user in dataset.user_ids[:30]]

    result = update_run(root, News(collected=Collected(events, [twin]), events_place="a place"))

    assert (result.version, result.found.items, result.found.interactions) == (2, 1, 30)
    run = RunFolder(root)
    assert run.dataset().item_ids[:-1] == dataset.item_ids
    catalog = Recommender.load(run).model.catalog
    for name in catalog.content.names():
        table = catalog.content[name]
        torch.testing.assert_close(table[-1], table[0], atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(
            catalog.similarity[name][-1], catalog.similarity[name][0], atol=1e-4, rtol=1e-3
        )
    steps = lineage(root)
    assert [step.version for step in steps] == [0, 1, 2]
    assert [step.is_current for step in steps] == [False, False, True]
    assert [step.about.get("parent") for step in steps] == [None, 0, 1]
    for parent, child in pairwise(steps):
        assert child.about["parent_identity"] == parent.identity != child.identity


def test_what_nothing_describes_is_taken_in_with_a_word(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    users = RunFolder(root).dataset().user_ids
    described = PostedItem("lamp", "A lamp", None, None)
    events = [Event(users[0], item, 1.9e9) for item in ("lamp", "lmap")]

    update_run(root, News(collected=Collected(events, [described])))

    assert "nothing describes 1 of the new items (lmap ...)" in caplog.text


def test_what_a_server_collected_is_taken_over_while_it_runs(root: Path, tmp_path: Path) -> None:
    place = str(tmp_path / "events.sqlite3")
    store = EventStore(place)
    dataset = RunFolder(root).dataset()
    title = dataset.titles[0]
    store.add_item(PostedItem("posted", title, None, None))
    now = 1.9e9
    takers, gone = dataset.user_ids[:20], dataset.user_ids[20]
    store.append([Event(user, "posted", now) for user in takers])
    store.append([Event("somebody new", item, now) for item in (*dataset.item_ids[:3], "posted")])
    store.withdraw(dataset.item_ids[5])
    store.forget(gone)

    result = update_run(root, News(collected=read_collected(place), events_place=place))

    found = result.found
    assert (found.items, found.users, found.withdrawn, found.forgotten) == (1, 1, 1, 1)
    assert found.interactions == 24
    recommender = Recommender.from_pretrained(root)
    assert "posted" in recommender.item_of_id
    known = recommender.histories()
    assert gone not in known
    assert known["somebody new"] == [*dataset.item_ids[:3], "posted"]
    assert all(known[user][-1] == "posted" for user in takers)
    answers = recommender.recommend(list(known.values()), k=dataset.num_items, exclude_seen=False)
    listed = {item.item_id for answer in answers for item in answer.items}
    assert dataset.item_ids[5] not in listed
    assert "posted" in listed
    again = update_run(root, News(collected=read_collected(place), events_place=place))
    assert again.version is None
    version = Version.load(root, store.items(), store.withdrawn(), store.restored())
    assert dataset.item_ids[5] in version.withdrawn
    store.restore(dataset.item_ids[5])
    version = Version.load(root, store.items(), store.withdrawn(), store.restored())
    assert dataset.item_ids[5] not in version.withdrawn
    store.close()


def test_a_server_counts_once_what_an_update_took_in(root: Path, tmp_path: Path) -> None:
    place = str(tmp_path / "events.sqlite3")
    store = EventStore(place)
    dataset = RunFolder(root).dataset()
    first, second, third = dataset.item_ids[:3]
    user = dataset.user_ids[0]
    store.append([Event(who, item, 1.9e9) for who in (user, "new") for item in (first, second)])
    store.append([Event("once", first, 1.9e9)])
    before = Recommender.from_pretrained(root).histories()[user]

    def histories() -> dict[str, list[str]]:
        service = Service(root, EventStore(place), ServeConfig())
        with TestClient(create_app(service), base_url="http://localhost") as client:
            return {
                who: [e["item_id"] for e in client.get(f"/v1/users/{who}").json()["history"]]
                for who in (user, "new", "once")
            }

    store.close()
    served = histories()
    result = update_run(root, News(collected=read_collected(place), events_place=place))
    assert result.found.interactions == 5
    assert histories() == served
    assert served == {
        user: [*before, first, second],
        "new": [first, second],
        "once": [first],
    }

    later = EventStore(place)
    later.forget("new")
    later.append([Event(user, third, 1.91e9), Event("new", third, 1.91e9)])
    later.close()
    assert histories() == {
        user: [*before, first, second, third],
        "new": [third],
        "once": [first],
    }
    use_version(root, 0)
    assert histories()[user] == [*before, first, second, third]


KILL_AFTER = """
import os, pathlib, signal, sys
from bbqrec.cli import main
name = sys.argv.pop(1)
for method in ("rename", "replace"):
    def patched(self, target, original=getattr(pathlib.Path, method)):
        result = original(self, target)
        if pathlib.Path(target).name.startswith(name):
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(pathlib.Path, method, patched)
main()
"""


def test_killed_anywhere_the_old_version_serves_and_the_same_command_goes_on(
    root: Path, shop: Path, updated: Path
) -> None:
    ask = ["update", str(root), "--data", str(shop), "--quiet", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    old = Recommender.from_pretrained(root)
    histories = list(old.histories().values())[:5]
    expected = old.recommend(histories, k=5)
    places = ["data", "tokenizer", "step-", "recommender", "version.json"]

    for place in places:
        killed = subprocess.run(
            [sys.executable, "-c", KILL_AFTER, place, *ask],
            env=environment,
            check=False,
            capture_output=True,
        )
        assert killed.returncode == -9, killed.stderr
        assert Recommender.from_pretrained(root).recommend(histories, k=5) == expected, place
        assert not (root / "current.json").exists()
    done = subprocess.run(
        [sys.executable, "-m", "bbqrec", *ask], env=environment, check=True, capture_output=True
    )

    assert json.loads(done.stdout)["version"] == 1
    model = Path("recommender", "model.safetensors")
    resumed, straight = RunFolder(root).directory / model, RunFolder(updated).directory / model
    assert sha256_file(resumed) == sha256_file(straight)
    assert sorted(path.name for path in (root / "versions").iterdir()) == ["1"]


def refusal(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 2, result
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_what_cannot_be_done_is_refused_in_one_sentence_and_changes_nothing(
    root: Path, tmp_path: Path
) -> None:
    (tmp_path / "no events").write_text("no database")
    (tmp_path / "empty.csv").write_text("user_id,item_id,timestamp\n")
    (tmp_path / "other.csv").write_text("who,what,when\nu,i,1\n")
    (tmp_path / "folder").mkdir()
    cases: list[tuple[tuple[str | Path, ...], str]] = [
        ((root,), "say what is new with --data, --events or --withdrawn"),
        ((tmp_path / "nothing", "--data", tmp_path), "there is no run folder at"),
        ((root, "--data", tmp_path / "nothing"), "there is no data at"),
        ((root, "--data", tmp_path / "empty.csv"), "has no rows"),
        ((root, "--data", tmp_path / "other.csv"), "no column user_id, no item_id, no timestamp"),
        ((root, "--data", tmp_path / "folder"), "holds no interactions that are recognized"),
        ((root, "--events", tmp_path / "nothing"), "there is no event store at"),
        ((root, "--events", tmp_path / "no events"), "file is not a database"),
        ((root, "--events", "mysql://u:secret@h/d"), "or in PostgreSQL, not in 'mysql'"),
        ((root, "--withdrawn", tmp_path / "nothing"), "is missing or is not a file"),
        ((root, "--data", tmp_path, "-s", "tokenizer.dim=4"), "an update cannot change tokenizer"),
        ((root, "--data", tmp_path, "-s", "prepare.min_user=2"), "cannot change prepare.min_user"),
        ((root, "--data", tmp_path, "-s", "update.epoch=2"), "did you mean epochs?"),
    ]

    for arguments, words in cases:
        sentence = refusal("update", *arguments)
        assert words in sentence
        assert "secret" not in sentence

    assert finished_versions(root) == [0]
    assert not (root / "current.json").exists()
    Recommender.from_pretrained(root)


def contents(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def test_what_would_make_a_version_anew_is_refused_and_touches_nothing(
    updated: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(updated, tmp_path / "run")
    source = RunFolder(root).source()
    assert source is not None
    run, more = ("run", "--data", source.path, "--out", root), ("-s", "training.epochs=9")
    cases: list[tuple[tuple[str | Path, ...], str]] = [
        ((*run, *more), "train"),
        ((*run, *more, "--dry-run"), "train"),
        ((*run, "--seed", "5"), "tokenize"),
        (("train", root, *more), "train"),
        (("evaluate", root, *more), "train"),
        (("tokenize", root, "-s", "tokenizer.epochs=2"), "tokenize"),
        (
            ("encode", root, "-s", "encode.text.encoder=lexical", "-s", "encode.text.dim=8"),
            "encode",
        ),
    ]
    before = contents(root)

    for arguments, stage in cases:
        sentence = refusal(*arguments)
        assert f"{root} is at version 1, made by an update, and other settings" in sentence
        assert f"would {stage} it anew and lose what it learned; go back with" in sentence
        assert f"`bbqrec versions {root} --use 0`, give another folder as --out, or" in sentence
    by_its_folder = refusal("train", root / "versions" / "1", *more)

    assert "versions/1 is a version made by an update, and other" in by_its_folder
    assert f"`bbqrec versions {root.resolve()} --use 0`" in by_its_folder
    assert contents(root) == before


def test_a_version_whose_settings_stand_is_kept_and_may_be_measured_again(
    updated: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(updated, tmp_path / "run")
    run = RunFolder(root)
    source = run.source()
    assert source is not None
    before = {s: contents(run.folder(s)) for s in STAGE_FOLDERS if s != "evaluate"}
    measured = read_json(run.directory / "metrics.json")["config"]["evaluation"]["num_bootstrap"]

    (run.folder("evaluate") / "metrics.json").write_text("damaged")
    for arguments in (
        ("run", "--data", source.path, "--out", root),
        ("train", root),
        ("evaluate", root, "-s", f"evaluation.num_bootstrap={measured + 10}"),
        ("report", root),
    ):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.stderr

    metrics = read_json(run.directory / "metrics.json")
    assert metrics["config"]["evaluation"]["num_bootstrap"] == measured + 10
    assert "changes" in metrics
    assert {s: contents(run.folder(s)) for s in before} == before


def test_a_damaged_version_is_not_trained_anew_and_is_made_again_beside(
    updated: Path, shop: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(updated, tmp_path / "run")
    path = root / "versions" / "1" / "recommender" / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    before = contents(root)

    for arguments in (("train", root), ("report", root), ("encode", root, "-s", "seed=3")):
        sentence = refusal(*arguments)
        assert f"{path} is damaged" in sentence
        assert f"go back with `bbqrec versions {root} --use 0` and update again" in sentence
    assert f"`bbqrec versions {root} --use NUMBER`" in refusal("recommend", root, "--history", "x")
    assert contents(root) == before
    shutil.rmtree(path.parent)
    assert "manifest.json is missing" in refusal("train", root)
    assert CliRunner().invoke(app, ["versions", str(root), "--use", "0"]).exit_code == 0
    result = update_run(root, News(source=shop))

    assert result.version == 2
    assert (RunFolder(root).folder("train") / path.name).read_bytes() == whole
    assert [step.about.get("parent") for step in lineage(root)] == [None, 0, 0]


def test_new_data_may_be_written_otherwise_and_withdraw_items(root: Path, tmp_path: Path) -> None:
    dataset = RunFolder(root).dataset()
    user, item = dataset.user_ids[0], dataset.item_ids[0]
    (tmp_path / "new.csv").write_text(f"who;what;when\n{user};{item};2030-01-01\n")
    (tmp_path / "withdrawn.txt").write_text(f"{dataset.item_ids[1]}\n\n")
    columns = ["user_id=who", "item_id=what", "timestamp=when"]
    settings = [f"prepare.columns.{column}" for column in columns] + ["update.epochs=1"]
    asked = ["update", str(root), "--data", str(tmp_path / "new.csv"), "--withdrawn"]
    asked += [str(tmp_path / "withdrawn.txt"), *(part for s in settings for part in ("-s", s))]

    result = CliRunner().invoke(app, [*asked, "--json", "--quiet"])

    assert result.exit_code == 0, result.stderr
    about = json.loads(result.stdout)
    assert (about["found"]["interactions"], about["found"]["withdrawn"]) == (1, 1)
    assert about["epochs"] == 1
    assert RunFolder(root).dataset().info["withdrawn"] == [dataset.item_ids[1]]
    assert read_json(RunFolder(root).config_path)["prepare"]["columns"] == {}
    shown = CliRunner().invoke(app, ["versions", str(root)]).stdout
    words = shown.replace("│", " ").split()
    assert "1 new interaction" in " ".join(words)
    assert "/new.csv" in "".join(words)  # of a path that is too long, the end


def damage_pointer(root: Path) -> None:
    (root / "current.json").write_text("{}")


def lose_version(root: Path) -> None:
    shutil.rmtree(root / "versions")


@pytest.mark.parametrize("spoil", [damage_pointer, lose_version])
def test_a_lost_version_is_named_with_the_way_back(
    spoil: Callable[[Path], None], updated: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(updated, tmp_path / "run")

    spoil(root)

    with pytest.raises(CorruptArtifactError, match=r"`bbqrec versions .*run --use NUMBER`"):
        Recommender.from_pretrained(root)
    assert CliRunner().invoke(app, ["versions", str(root), "--use", "0"]).exit_code == 0
    Recommender.from_pretrained(root)
