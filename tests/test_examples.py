"""The walk-through in examples/, step by step, each file by itself as a reader runs it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def walk(name: str, *arguments: str | Path) -> str:
    """What an example prints."""
    command = [sys.executable, "-W", "error::DeprecationWarning:bbqrec", str(EXAMPLES / name)]
    done = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


pytestmark = pytest.mark.timeout(600)  # two minutes alone; CI shares its cores


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The run of the first example, and what it printed."""
    run = tmp_path_factory.mktemp("walk") / "run"
    return run, walk("1_your_data.py", run)


def test_the_first_example_ends_with_recommendations_and_a_report(
    walked: tuple[Path, str],
) -> None:
    run, printed = walked

    recommended = re.findall(r"^  (\w+) (\w+) (\w+)  \(log-probability", printed, re.MULTILINE)
    assert len(recommended) == 5
    assert recommended[0] == ("small", "red", "vase")  # next for who likes red, in the order drawn
    assert (run / "report.html").is_file()


def test_the_second_example_shows_codes_tables_and_reasons(walked: tuple[Path, str]) -> None:
    printed = walk("2_look_inside.py", walked[0])

    assert len(re.findall(r"^  code \d+, \d+ items$", printed, re.MULTILINE)) == 3
    assert "behavior" in printed
    assert len(re.findall(r"^  \w+ \w+ \w+ counts [+-]", printed, re.MULTILINE)) == 6


def test_the_third_example_gets_other_answers_after_an_event(walked: tuple[Path, str]) -> None:
    lines = walk("3_ask_a_server.py", walked[0]).splitlines()

    popular, after = (line.partition(": ")[2] for line in lines[:2])
    assert popular != after
    assert lines[2].startswith("a new item gets the codes [")
    assert lines[3].count(",") == 2


def test_the_fourth_and_fifth_hand_over_and_recommend_from_that_alone(
    walked: tuple[Path, str], tmp_path: Path
) -> None:
    printed = walk("4_hand_over.py", walked[0], tmp_path)
    again = walk("5_onnx_without_bbqrec.py", tmp_path / "export", "red-mug-small,red-lamp-large")

    assert "it answers as before" in printed
    assert len(re.findall(r"^  \S+-\S+-\S+  \w+ \w+ \w+  \(-", again, re.MULTILINE)) == 10


def test_the_list_of_examples_is_complete() -> None:
    text = (EXAMPLES / "README.md").read_text()

    for path in EXAMPLES.glob("*.py"):
        assert text.count(path.name) >= 2
