"""A saved model answers as its run does, from a folder or a hub, and is nothing but its files."""

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tiny_run import draw_tiny_shop, tiny_config

from bbqrec import Recommender
from bbqrec.answers import history_of
from bbqrec.bundle import RunFolder
from bbqrec.errors import CorruptArtifactError, RequestError, StorageError
from bbqrec.pipeline import run_stages
from bbqrec.pretrained import FILES, MANIFEST

OLD, NEW = "a" * 40, "b" * 40  # commits


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shop = draw_tiny_shop(tmp_path_factory.mktemp("data") / "shop")
    folder = tmp_path_factory.mktemp("runs") / "run"
    run_stages(RunFolder(folder), tiny_config(training={"epochs": 1}), source=shop, until="train")
    return folder


@pytest.fixture
def saved(run: Path, tmp_path: Path) -> Path:
    Recommender.from_pretrained(run).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


class Hub:
    """A model hub on this machine: commits of one repository, and what was asked of it."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, bytes]] = {}
        self.main = OLD
        self.asked: set[tuple[str, str]] = set()

    def publish(self, commit: str, folder: Path) -> None:
        files = [path for path in folder.rglob("*") if path.is_file()]
        self.commits[commit] = {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}
        self.main = commit

    def answer(self, path: str) -> tuple[str, bytes] | None:
        """(commit, content) of /owner/name/resolve/REVISION/FILE."""
        _, owner, name, resolve, revision, file = path.split("/", 5)
        commit = self.main if revision == "main" else revision
        self.asked.add((commit, file))
        content = self.commits.get(commit, {}).get(file)
        if (owner, name, resolve) != ("someone", "shop", "resolve") or content is None:
            return None
        return commit, content


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.respond(with_body=False)

        def do_GET(self) -> None:
            self.respond(with_body=True)

        def respond(self, *, with_body: bool) -> None:
            found = hub.answer(self.path)
            commit, content = found or ("", b"")
            self.send_response(200 if found else 404)
            if found:
                self.send_header("X-Repo-Commit", commit)
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            else:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if with_body:
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    constants = "huggingface_hub.constants"
    monkeypatch.setattr(f"{constants}.ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield hub
    server.shutdown()
    server.server_close()


def answers(recommender: Recommender, run: Path) -> object:
    item_ids = Recommender.from_pretrained(run).dataset.item_ids
    return recommender.recommend([item_ids[:3], item_ids[5:6], []], k=10)


def test_a_saved_model_answers_as_its_run(run: Path, saved: Path) -> None:
    again = Recommender.from_pretrained(saved)

    assert answers(again, run) == answers(Recommender.from_pretrained(run), run)


def test_a_saved_model_holds_the_files_of_its_manifest_and_no_user(run: Path, saved: Path) -> None:
    recommender = Recommender.from_pretrained(run)

    files = {p.relative_to(saved).as_posix() for p in saved.rglob("*") if p.is_file()}
    assert files == {*FILES, MANIFEST, "README.md"}
    content = b"".join(path.read_bytes() for path in saved.rglob("*") if path.is_file())
    assert not any(user_id.encode() in content for user_id in recommender.dataset.user_ids)
    again = Recommender.from_pretrained(saved)
    assert again.histories() == {}
    assert again.dataset.popularity().tolist() == recommender.dataset.popularity().tolist()
    with pytest.raises(RequestError, match="saved without users"):
        history_of(again, recommender.dataset.user_ids[0])


def test_users_come_along_where_asked(run: Path, tmp_path: Path) -> None:
    recommender = Recommender.from_pretrained(run)

    recommender.save_pretrained(tmp_path / "all", with_users=True)

    assert Recommender.from_pretrained(tmp_path / "all").histories() == recommender.histories()


def test_a_saved_model_can_be_saved_again(run: Path, saved: Path, tmp_path: Path) -> None:
    Recommender.from_pretrained(saved).save_pretrained(tmp_path / "copy")

    copy = Recommender.from_pretrained(tmp_path / "copy")
    assert answers(copy, run) == answers(Recommender.from_pretrained(run), run)


def test_a_recommender_whose_folder_was_trained_again_is_not_saved(
    run: Path, saved: Path, tmp_path: Path
) -> None:
    recommender = Recommender.from_pretrained(saved)
    manifest = saved / "recommender" / "manifest.json"
    changed = json.loads(manifest.read_text())
    changed["sha256"]["model.json"] = "0" * 64
    manifest.write_text(json.dumps(changed))

    with pytest.raises(RequestError, match="still as its folder has it"):
        recommender.save_pretrained(tmp_path / "later")

    assert not (tmp_path / "later").exists()


def test_a_folder_of_something_else_is_kept(run: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")

    with pytest.raises(StorageError, match="holds something else"):
        Recommender.from_pretrained(run).save_pretrained(tmp_path)

    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_damaged_file_is_named(saved: Path, name: str) -> None:
    content = bytearray((saved / name).read_bytes())
    content[len(content) // 2] ^= 1
    (saved / name).write_bytes(content)

    with pytest.raises(CorruptArtifactError, match=name.rpartition("/")[2]):
        Recommender.from_pretrained(saved)


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "data/evil.pkl", "recommender/modeling.py", "/etc/passwd"]
)
def test_a_manifest_with_another_file_is_refused_before_it_is_fetched(
    saved: Path, hub: Hub, name: str
) -> None:
    manifest = json.loads((saved / MANIFEST).read_text())
    manifest["sha256"][name] = "0" * 64
    (saved / MANIFEST).write_text(json.dumps(manifest))
    hub.publish(OLD, saved)

    with pytest.raises(CorruptArtifactError, match="does not belong there"):
        Recommender.from_pretrained("someone/shop")

    assert hub.asked == {(OLD, MANIFEST)}


def test_a_model_of_the_hub_answers_as_its_run_and_only_its_files_are_fetched(
    run: Path, saved: Path, hub: Hub
) -> None:
    (saved / "modeling.py").write_text("raise SystemExit")
    (saved / "weights.pkl").write_bytes(b"cos\nsystem\n")
    hub.publish(OLD, saved)

    recommender = Recommender.from_pretrained("someone/shop")

    assert answers(recommender, run) == answers(Recommender.from_pretrained(run), run)
    assert hub.asked == {(OLD, name) for name in (*FILES, MANIFEST)}


def test_a_commit_is_pinned_while_the_branch_moves_on(
    run: Path, saved: Path, hub: Hub, tmp_path: Path
) -> None:
    hub.publish(OLD, saved)
    newer = tmp_path / "newer"
    Recommender.from_pretrained(run).save_pretrained(newer, with_users=True)
    hub.publish(NEW, newer)

    assert Recommender.from_pretrained("someone/shop", revision=OLD).histories() == {}
    assert Recommender.from_pretrained("someone/shop").histories() != {}
    assert {commit for commit, name in hub.asked if name in FILES} == {OLD, NEW}


def test_a_branch_that_moves_during_the_download_gives_no_mixture(
    run: Path, saved: Path, hub: Hub, tmp_path: Path
) -> None:
    newer = tmp_path / "newer"
    Recommender.from_pretrained(run).save_pretrained(newer, with_users=True)
    hub.publish(NEW, newer)
    hub.publish(OLD, saved)
    answer = hub.answer

    def move_after_the_manifest(path: str) -> tuple[str, bytes] | None:
        found = answer(path)
        if "sequences" in path:
            hub.main = NEW
        return found

    hub.answer = move_after_the_manifest  # type: ignore[method-assign]

    assert Recommender.from_pretrained("someone/shop").histories() == {}
    assert {commit for commit, _ in hub.asked} == {OLD}


def test_what_was_fetched_once_is_there_without_the_hub(
    run: Path, saved: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish(OLD, saved)
    Recommender.from_pretrained("someone/shop")
    hub.asked.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    recommender = Recommender.from_pretrained("someone/shop")

    assert answers(recommender, run) == answers(Recommender.from_pretrained(run), run)
    assert hub.asked == set()


def test_a_file_damaged_on_the_way_is_found_out(saved: Path, hub: Hub) -> None:
    hub.publish(OLD, saved)
    hub.commits[OLD]["recommender/model.safetensors"] += b"x"

    with pytest.raises(CorruptArtifactError, match=r"model\.safetensors is missing or damaged"):
        Recommender.from_pretrained("someone/shop")


@pytest.mark.parametrize("name", ["someone/else", "runs/demo1"])
def test_a_name_that_is_neither_here_nor_on_the_hub_is_one_sentence(hub: Hub, name: str) -> None:
    with pytest.raises(RequestError, match=f"no folder {name} here, and the Hugging Face hub"):
        Recommender.from_pretrained(name)


@pytest.mark.parametrize("name", ["runs", "a/b/c", "../up", "https://example.org/x", "a b/c"])
def test_what_cannot_be_a_hub_name_asks_nobody(
    hub: Hub, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # `make demo` leaves a folder `runs` in the checkout

    with pytest.raises(RequestError, match="neither a folder here nor a model"):
        Recommender.from_pretrained(name)

    assert hub.asked == set()


def test_a_path_never_asks_the_hub(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(CorruptArtifactError, match="there is no run folder"):
        Recommender.from_pretrained(Path("someone/shop"))

    assert hub.asked == set()


def test_a_revision_of_a_folder_is_refused(saved: Path) -> None:
    with pytest.raises(RequestError, match="leave the revision out"):
        Recommender.from_pretrained(str(saved), revision=OLD)


def test_stages_of_two_runs_are_not_saved_together(run: Path, tmp_path: Path) -> None:
    mixed = Path(shutil.copytree(run, tmp_path / "mixed"))
    recommender = Recommender.from_pretrained(mixed)
    ids = recommender.semantic_ids
    codes = ids.codes.flip(0)
    type(ids)(codes, ids.codebook_sizes).save(mixed / "tokenizer" / "semantic_ids.safetensors")

    with pytest.raises(CorruptArtifactError, match="damaged"):
        recommender.save_pretrained(tmp_path / "out")
