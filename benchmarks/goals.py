"""What was set as a goal before anything was built, beside what the results say today."""

from collections.abc import Callable
from typing import Any, NamedTuple

Rows = list[dict[str, Any]]


class Goal(NamedTuple):
    """One measure: rows of `script` where `where` holds; `worst` of them counts.

    Args:
        accept: what is enough; `goal` is what is wanted.
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
        for beam, least, wanted in zip((10, 20, 50), accept, goal, strict=True)
        if (where := {"alternative": name, "beam": beam})
    ]


def _one(what: str, script: str, name: str, accept: float, goal: float) -> Goal:
    return Goal(f"{what}, {name}", script, {"alternative": name}, "ratio", accept, goal)


LARGE = {"items": 10_000_000}
GOALS = [
    *_decode("exact, fp32", (3.4, 4.2, 6.4), (4.5, 6, 9)),
    *_decode("exact, bf16", (4.7, 6.4, 9.8), (7.5, 10, 16)),
    *_decode("fast, fp32", (21, 34, 64), (28, 45, 95)),
    *_decode("fast, bf16", (40, 60, 108), (50, 80, 170)),
    _one("training", "train", "one pass + decoder, fp32", 22, 32),
    _one("training", "train", "one pass + decoder, bf16", 30, 50),
    _one("training", "train", "fast, fp32", 100, 150),
    _one("training", "train", "fast, bf16", 180, 260),
    _one("batch-1 latency", "latency", "exact, fp32", 3.2, 5),
    _one("batch-1 latency", "latency", "fast, fp32", 19, 30),
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
                "enough": f"{goal.accept:g}{goal.unit}",
                "goal": f"{goal.goal:g}{goal.unit}",
                "verdict": "reached"
                if sign * measured >= sign * goal.goal
                else "enough"
                if sign * measured >= sign * goal.accept
                else "**missed**",
                "share of floor": floors[0] if floors else "",
                "note": rows[0].get("note", ""),
            }
        )
    return found
