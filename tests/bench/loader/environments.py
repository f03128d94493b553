"""An environment for each peer, beside the project's own, whose torch it borrows; its own packages win.

    python -m tests.bench.loader.environments [PEER ...]

A peer is a file of tests/bench/loader/peers/, its pinned packages. Where one cannot be installed, pip's reason stands in place of its rows.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[2]
PEERS = tuple(sorted(path.stem for path in (HERE / "peers").glob("*.txt")))


def python_of(peer: str) -> Path:
    """The interpreter of a peer's environment; the project's own for what it has pinned itself."""
    return PROJECT / ".venv-bench" / peer / "bin" / "python" if peer in PEERS else Path(sys.executable)


def install(peer: str) -> str:
    """Make a peer's environment if it is not there; returns why that failed, or nothing."""
    folder = PROJECT / ".venv-bench" / peer
    if (folder / "installed").exists():
        return ""
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    asked = [str(python_of(peer)), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    own = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    (Path(own) / "project.pth").write_text(sysconfig.get_path("purelib") + "\n")  # after the environment's own folder
    words = ["-m", "pip", "install", "--disable-pip-version-check", "-r", str(HERE / "peers" / f"{peer}.txt")]
    done = subprocess.run([str(python_of(peer)), *words], capture_output=True, text=True)
    if done.returncode:
        return reason_of(done.stdout + done.stderr)
    (folder / "installed").touch()
    return ""


def reason_of(text: str) -> str:
    """What a program's last words say went wrong: the last line that names an error, of pip's the one that it hands on from a build."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["it says nothing"]
    errors = [
        line
        for line in lines
        if re.search(r"(error|exception): ", line, re.IGNORECASE)
        and "subprocess-exited" not in line
        and not line.startswith("note:")
    ]
    return (errors or lines)[-1]


if __name__ == "__main__":
    for peer in sys.argv[1:] or PEERS:
        print(peer, install(peer) or "is installed", flush=True)
