"""Small data sets for tests, made of plain lists or drawn at random."""

import numpy as np

from bbqrec.data import Cases, Dataset, Sequences


def make_sequences(rows: list[list[int]]) -> Sequences:
    offsets = np.cumsum([0] + [len(row) for row in rows]).astype(np.int64)
    return Sequences(np.array([item for row in rows for item in row], dtype=np.int32), offsets)


def make_dataset(rows: list[list[int]], num_items: int) -> Dataset:
    """One user per row: the last item is for test, the one before for validation."""
    users = np.arange(len(rows))
    train, known = [row[:-2] for row in rows], [row[:-1] for row in rows]
    return Dataset(
        user_ids=[f"u{user}" for user in users],
        item_ids=[f"i{item}" for item in range(num_items)],
        titles=[f"Item {item}" for item in range(num_items)],
        train=make_sequences(train),
        validation=Cases(
            users, make_sequences(train), np.array([row[-2] for row in rows], dtype=np.int32)
        ),
        test=Cases(
            users, make_sequences(known), np.array([row[-1] for row in rows], dtype=np.int32)
        ),
        is_cold=np.zeros(num_items, dtype=bool),
        info={"fingerprint": "a small data set"},
    )


def random_dataset(num_users: int, num_items: int, seed: int, follows: float = 0.0) -> Dataset:
    """Random histories; with probability `follows` an item is the one before it plus one."""
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(num_users):
        row = [int(generator.integers(num_items))]
        for _ in range(int(generator.integers(3, 12))):
            is_next = generator.random() < follows
            row.append((row[-1] + 1) % num_items if is_next else int(generator.integers(num_items)))
        rows.append(row)
    return make_dataset(rows, num_items)
