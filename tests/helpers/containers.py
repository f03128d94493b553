"""Stand-ins for what starts containers: they note how they were called, and run the command on this machine."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tests.helpers.launching import stub

APPTAINER = """
printf '%s\\n' "$*" >> '{calls}'
[ "$1" = exec ] || exit 2
binds=(); shift
while :; do case $1 in --bind) binds+=("$2"); shift 2;; --nv) shift;; *) break;; esac; done
export IMAGE=$1 PYTHONPATH=/of/the/image BINDS="$(printf '%s\\n' "${{binds[@]}}")"; shift
exec unshare -m /bin/bash -c '
set -e
mount -t tmpfs none /mnt; number=0
while IFS=: read -r from to how; do
  mkdir /mnt/$number; mount --bind "$from" /mnt/$number; number=$((number + 1))
done <<< "$BINDS"
mount -t tmpfs none "$0"; number=0
while IFS=: read -r from to how; do
  mkdir -p "$to"; mount --bind /mnt/$number "$to"; number=$((number + 1))
done <<< "$BINDS"
exec "$@"' '{hidden}' "$@"
"""
"""Below a folder the command sees what was bound and nothing else, and its PYTHONPATH is another one, as an image's."""
PYXIS = """
[ "$1" != --help ] || {{ echo "  --container-image=..."; exit; }}
words=()
for word; do case $word in --container-*) printf '%s\\n' "$word" >> '{calls}';; *) words+=("$word");; esac; done
exec '{srun}' "${{words[@]}}"
"""


def sandbox(folder: Path) -> dict[str, object]:
    """Make an image that is a folder, for a real Apptainer; returns what a site file says of it.

    It holds the places of this machine's programs alone, which the site's binds bring.
    """
    places = {"/usr", "/etc", *(str(Path(prefix).resolve()) for prefix in (sys.prefix, sys.base_prefix))}
    for name in ("usr", "etc", "proc", "sys", "dev", "tmp", "var/tmp", "root", *(place[1:] for place in places)):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        (folder / name).symlink_to(f"usr/{name}")
    return {"image": str(folder), "binds": sorted(places)}


def stand_ins(folder: Path, hidden: Path) -> tuple[Path, Path]:
    """Make them in a new folder, which is to come first on a job's PATH.

    Args:
        folder: where.
        hidden: what a container does not see but for what is bound.

    Returns:
        The folder, and the file with how they were called.
    """
    (folder / "bin").mkdir(parents=True)
    calls = folder / "calls"
    stub(folder / "bin", "apptainer", APPTAINER.format(calls=calls, hidden=hidden))
    stub(folder / "bin", "srun", PYXIS.format(calls=calls, srun=shutil.which("srun")))
    return folder / "bin", calls
