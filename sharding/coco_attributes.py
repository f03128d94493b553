"""COCO-Attributes as plain arrays: `python -m sharding.coco_attributes FILE.jbl ARRAYS.npz`.

The command of sharding/datasets/mscoco_glt/attributes.py, which says what is trusted of the file.
"""

from __future__ import annotations

import sys

from sharding.datasets.mscoco_glt.attributes import alone

if __name__ == "__main__":
    sys.exit(alone(sys.argv[1:]))
