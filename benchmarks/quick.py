"""The floors of `make bench-quick`: index, search and training in one process, at a small size.

    python benchmarks/quick.py --quick

One process, since reading torch and transformers takes as long as all the timing. Exits with 1 at
the first script that misses a floor.
"""

import decode
import index
import train


def main() -> None:
    for script in (index, decode, train):
        script.main()


if __name__ == "__main__":
    main()
