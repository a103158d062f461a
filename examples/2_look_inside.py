"""2. Look inside: what the codes mean, what was learned, and why an item is recommended.

python examples/1_your_data.py
python examples/2_look_inside.py runs/walk
"""

import sys
from collections import defaultdict
from pathlib import Path

from bbqrec import Recommender
from bbqrec.bundle import RunFolder
from bbqrec.explain import Explainer


def show_codes(recommender: Recommender) -> None:
    """Items that share their first code have much in common, those that share two have more."""
    items_of_code = defaultdict(list)
    for item, codes in enumerate(recommender.semantic_ids.codes.tolist()):
        items_of_code[codes[0]].append((codes, recommender.dataset.titles[item]))
    print("the largest groups of items that share a first code:")
    groups = sorted(items_of_code.items(), key=lambda group: (-len(group[1]), group[0]))
    for code, members in groups[:3]:
        print(f"  code {code}, {len(members)} items")
        for codes, title in sorted(members)[:4]:
            print(f"    {codes}  {title}")


def show_learned(recommender: Recommender) -> None:
    """Two small tables of the model can be read as they are."""
    print("\nwhat it adds to an item's score that the user already had it, by events ago:")
    for age, value in list(recommender.model.learned_repeats().items())[:4]:
        print(f"  {age:>8}  {value:+.2f}")
    print("what the most alike neighbors of the latest item gain, by kind of likeness:")
    for kind, table in recommender.model.learned_neighbors().items():
        print(f"  {kind:>8}  {table[0, -1]:+.2f}")


def show_why(run: Path, recommender: Recommender) -> None:
    """What the best item's score is made of, and what each event of the history counted."""
    history = next(iter(recommender.histories().values()))
    best = recommender.recommend([history], k=1)[0].items[0]
    explainer = Explainer.of_run(RunFolder(run), recommender)
    explanation = explainer.explain(history, [best.item_id])[0]
    print(f"\nwhy {best.title}?")
    for event in explanation.history:
        print(f"  {event.title} counts {event.left_out:+.2f}")


def main(run: Path) -> None:
    recommender = Recommender.from_pretrained(run)
    show_codes(recommender)
    show_learned(recommender)
    show_why(run, recommender)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
