"""A full disk, a refused read, Ctrl-C and our own mistakes leave a run as it was."""

import errno
import itertools
import json
import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from command_line import answer, invoke, refusal

import bbqrec.pipeline
import bbqrec.source
import bbqrec.stages
from bbqrec.bundle import RunFolder
from bbqrec.errors import StorageError
from bbqrec.storage import write_json


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_old_run_as_it_was(run: Path, shop: Path, tmp_path: Path) -> None:
    before = answer("recommend", run, "--history", "i6")
    again = ("tokenize", run, "--set", "tokenizer.epochs=3", "--quiet")
    fresh = ("prepare", shop / "shop.csv", "--out", tmp_path / "new", "--quiet")

    for num_bytes, arguments in ((9_000, again), (10, fresh), (2_000, fresh)):
        with files_of_at_most(num_bytes):
            sentence = refusal(*arguments)
        assert "File too large" in sentence
        assert "nothing was left half-written" in sentence

    assert not (tmp_path / "new").exists()
    assert not list(run.rglob("*.partial"))
    assert answer("recommend", run, "--history", "i6") == before
    assert answer(*again)  # goes on once there is space


def test_a_write_that_fails_anywhere_leaves_the_old_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The n-th call to the operating system fails, for every n there is."""
    run = RunFolder(tmp_path)

    def write(value: int) -> None:
        with run.write_stage("train", str(value)) as directory:
            write_json(directory / "log.json", value)
            write_json(directory / "model.json", [value] * 100)

    def failing(call: int) -> Callable[[Any], Any]:
        calls = itertools.count(1)

        def wrap(function: Any) -> Any:
            def wrapped(*arguments: Any, **options: Any) -> Any:
                if next(calls) == call:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return function(*arguments, **options)

            return wrapped

        return wrap

    places = [(Path, name) for name in ("open", "mkdir", "rename", "replace")]
    for call in itertools.count(1):
        write(1)
        with monkeypatch.context() as patch:
            wrap = failing(call)
            for place, name in (*places, (os, "fsync")):
                patch.setattr(place, name, wrap(getattr(place, name)))
            try:
                write(2)
                break  # fewer than `call` calls are made
            except StorageError as error:
                assert "No space left on device" in str(error)  # noqa: PT017
        value = json.loads((run.folder("train") / "log.json").read_text())
        # The new one is in place only if no more than its last fsync failed.
        assert run.verify("train")["key"] == str(value)
        assert os.listdir(tmp_path) == ["recommender"]

    assert call > 15
    assert run.verify("train")["key"] == "2"


def test_a_refused_read_is_one_sentence(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/vault/shop.csv")

    monkeypatch.setattr(bbqrec.source, "source_fingerprint", refuse)

    sentence = refusal("prepare", run / "config.json", "--out", run, "-q")

    assert "/vault/shop.csv: Permission denied" in sentence


def test_a_mistake_of_ours_keeps_its_traceback(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bbqrec.pipeline, "run_stages", lambda *_, **__: 1 // 0)

    result = invoke("train", run)

    assert isinstance(result.exception, ZeroDivisionError)
    assert "please report it" in result.stderr


@pytest.mark.parametrize("is_swallowed", [False, True])
def test_ctrl_c_leaves_a_run_that_continues(
    run: Path, monkeypatch: pytest.MonkeyPatch, is_swallowed: bool
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            if is_swallowed:
                raise RuntimeError("a library was stopped midway") from None
            raise

    shutil.rmtree(run / "evaluation")
    # A shell that starts the tests in the background has them ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(bbqrec.stages, "evaluate", interrupt)
            stopped = invoke("evaluate", run)
    finally:
        signal.signal(signal.SIGINT, before)

    assert stopped.exit_code == 130
    assert "the same command continues" in stopped.stderr
    assert not (run / "evaluation").exists()
    assert "train: unchanged, kept" in invoke("evaluate", run).stderr
