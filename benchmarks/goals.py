"""What was set as a goal before anything was built, beside what the results say today."""

from collections.abc import Callable
from typing import Any, NamedTuple

Rows = list[dict[str, Any]]


class Goal(NamedTuple):
    """One measure: rows of `script` where `where` holds; `worst` of them counts.

    Args:
        accept: the least that is accepted; `goal` is what is wanted.
    """

    what: str
    script: str
    where: dict[str, Any]
    column: str
    accept: float
    goal: float
    unit: str = "x"
    worst: Callable[..., float] = min

    @property
    def is_cost(self) -> bool:
        return self.worst is max


def _decode(name: str, accept: tuple[float, ...], goal: tuple[float, ...]) -> list[Goal]:
    return [
        Goal(f"search, {name}, beams of {beam}", "decode", where, "ratio", least, wanted)
        for beam, least, wanted in zip(BEAMS, accept, goal, strict=True)
        if (where := {"alternative": name, "beam": beam})
    ]


def _one(what: str, script: str, name: str, accept: float, goal: float) -> Goal:
    return Goal(f"{what}, {name}", script, {"alternative": name}, "ratio", accept, goal)


LARGE = {"items": 10_000_000}
WIDE = "fast, as wide as T5"  # what the goals of "fast" were set for
BEAMS = (10, 20, 50)


def _with_wide(measure: Callable[..., list[Goal]], precision: str, *limits: Any) -> list[Goal]:
    """The goals of the narrow model, each followed by the same for the wide one."""
    narrow, wide = (measure(f"{name}, {precision}", *limits) for name in ("fast", WIDE))
    return [goal for pair in zip(narrow, wide, strict=True) for goal in pair]


def _train(name: str, accept: float, goal: float) -> list[Goal]:
    return [_one("training", "train", name, accept, goal)]


def _latency(name: str, accept: float, goal: float) -> list[Goal]:
    return [_one("batch-1 latency", "latency", name, accept, goal)]


GOALS = [
    *_decode("exact, fp32", (3.4, 4.2, 6.4), (4.5, 6, 9)),
    *_decode("exact, bf16", (4.7, 6.4, 9.8), (7.5, 10, 16)),
    *_with_wide(_decode, "fp32", (21, 34, 64), (28, 45, 95)),
    *_with_wide(_decode, "bf16", (40, 60, 108), (50, 80, 170)),
    *_train("one pass + decoder, fp32", 22, 32),
    *_train("one pass + decoder, bf16", 30, 50),
    *_with_wide(_train, "fp32", 100, 150),
    *_with_wide(_train, "bf16", 180, 260),
    *_latency("exact, fp32", 3.2, 5),
    *_with_wide(_latency, "fp32", 19, 30),
    Goal("index of 10 M items, memory", "index", LARGE, "mb", 50, 50, " MB", max),
    Goal("index of 10 M items, build", "index", LARGE, "build_s", 8, 2, " s", max),
    Goal("index of 10 M items, a beam's step", "index", LARGE, "us, ours", 1.5, 0.7, " us", max),
    _one("RQ-VAE epoch", "tokenizer", "ours, bf16", 1.9, 2.2),
]


def goal_rows(results: dict[str, Rows]) -> Rows:
    """A row per goal whose script has results."""
    found = []
    for goal in GOALS:
        rows = [
            row
            for row in results.get(goal.script, [])
            if goal.column in row and goal.where.items() <= row.items()
        ]
        if not rows:
            continue
        measured = goal.worst(row[goal.column] for row in rows)
        sign = -1 if goal.is_cost else 1
        floors = [f"{100 * row['share_of_floor']:.0f}%" for row in rows if "share_of_floor" in row]
        found.append(
            {
                "what": goal.what,
                "measured": f"**{measured:g}{goal.unit}**",
                "accept from": f"{goal.accept:g}{goal.unit}",
                "goal": f"{goal.goal:g}{goal.unit}",
                "verdict": "reached"
                if sign * measured >= sign * goal.goal
                else "accepted"
                if sign * measured >= sign * goal.accept
                else "**below accept**",
                "share of floor": floors[0] if floors else "",
            }
        )
    return found
