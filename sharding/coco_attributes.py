"""COCO-Attributes as plain arrays: `python -m sharding.coco_attributes FILE.jbl ARRAYS.npz`.

The command of sharding/datasets/mscoco_glt/attributes.py, which says what is trusted of the file.
"""

if __name__ == "__main__":
    from recipes.common.venv import in_environment

    in_environment()  # before the first import that a bare or an older Python lacks

import sys

from recipes.common.output import ends_told, go_on_unread
from sharding.datasets.mscoco_glt.attributes import alone

if __name__ == "__main__":
    go_on_unread()
    sys.exit(ends_told("sharding.coco_attributes", lambda: alone(sys.argv[1:])))
