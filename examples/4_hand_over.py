"""4. Hand over: to bbqrec elsewhere, to other programs, to other projects.

pip install 'bbqrec[export]'
python examples/4_hand_over.py runs/walk handed_over
python examples/5_onnx_without_bbqrec.py handed_over/export ITEM_ID,ITEM_ID
"""

import sys
from pathlib import Path

import polars as pl

from bbqrec import Recommender
from bbqrec.export import export_run


def main(run: Path, to: Path) -> None:
    # To bbqrec elsewhere: a folder to copy, or to upload to the Hugging Face hub. No user is in it.
    recommender = Recommender.from_pretrained(run)
    recommender.save_pretrained(to / "saved")
    again = Recommender.from_pretrained(to / "saved")
    history = [recommender.dataset.item_ids[:3]]
    assert again.recommend(history) == recommender.recommend(history)
    print("saved, and it answers as before:", to / "saved")

    # To other programs: ONNX and torch.export graphs, compared with the model before they are
    # written. README.md beside them says how each is called.
    summary = export_run(run, to / "export")
    print("exported:", to / "export" / "README.md")
    for name, difference in summary.agreement.largest_difference.items():
        print(f"  {name}: onnxruntime and torch differ by {difference:.1g} at most")

    # To other projects: semantic IDs as a table, and as LC-Rec and LETTER read them.
    print(pl.read_parquet(to / "export" / "semantic_ids.parquet").head(3))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
