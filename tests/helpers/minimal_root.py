"""A machine that has nothing: a minimal Debian in a folder, in which commands run as on a computer just installed.

    python -m tests.helpers.minimal_root 'make demo'                     in a fresh clone of this checkout; as root
    python -m tests.helpers.minimal_root release=trixie 'make demo'      another release than bookworm

It holds Debian's smallest system, the packages that README asks for (`packages()` reads them there), and this machine's
package sources and pip settings. It is made once, in `folder=` (default: a folder of the temporary folder named after
the release), and nothing stays mounted: each command has a mount namespace of its own. Needs root and debootstrap.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
CLONE = "/root/a fresh clone"  # with spaces: such a folder must work
PIP_FILES = ("/etc/pip.conf", "/etc/xdg/pip", "/root/.config/pip", "/root/.pip")
SYSTEM_FILES = ("/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt")


def lacking() -> str | None:
    """Return why such a machine cannot be made here, in a few words; None if it can."""
    if os.geteuid() != 0:
        return "needs root (make system, as root)"
    return None if shutil.which("debootstrap") else "needs debootstrap (make system, as root)"


def packages(readme: str | None = None) -> list[str]:
    """Return the Debian packages of the first `apt-get install` line in README, which newcomers install."""
    text = (PROJECT / "README.md").read_text() if readme is None else readme
    line = re.search(r"apt-get install ([a-z0-9.+ -]+)", text)
    assert line, "README names no packages"
    return line[1].split()


class MinimalRoot:
    """A root folder with a minimal system, and in it a clone of this checkout."""

    def __init__(self, folder: Path, release: str = "bookworm") -> None:
        self.folder, self.release = folder, release

    def make(self) -> MinimalRoot:
        """Install the system, unless it is there with these packages already."""
        wanted, made = " ".join(packages()), self.folder / ".made"
        if not made.exists() or made.read_text() != wanted:
            shutil.rmtree(self.folder, ignore_errors=True)
            include = ",".join([*packages(), "ca-certificates"])
            command = [
                "debootstrap",
                "--variant=minbase",
                f"--include={include}",
                self.release,
                str(self.folder),
                _mirror(),
            ]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            shutil.copytree("/etc/apt/apt.conf.d", self.folder / "etc/apt/apt.conf.d", dirs_exist_ok=True)
            made.write_text(wanted)
        for name in (*PIP_FILES, *SYSTEM_FILES):
            source, target = Path(name), self.folder / name[1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            elif source.exists():
                shutil.copy(source, target)
        return self

    def clone(self) -> None:
        """Put a fresh clone of this checkout's last commit into it."""
        place = self.folder / CLONE[1:]
        shutil.rmtree(place, ignore_errors=True)
        subprocess.run(["git", "clone", "-q", str(PROJECT), str(place)], check=True)

    def run(
        self, command: str, before: str = "", unshare: str = "--mount", timeout: float = 3600, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the clone.

        Args:
            command: a line for bash inside.
            before: a line for sh outside, in the same namespaces, once all is mounted; `$ROOT` is the folder.
            unshare: the namespaces that it does not share with this machine: `--mount --net` is without a network.
            timeout: seconds.
            variables: of the environment, beside HOME, PATH and pip's, which are all there is.
        """
        pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        settings = {
            "HOME": "/root",
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            **pip,
            **variables,
        }
        words = ["chroot", str(self.folder), "env", "-i", *(f"{name}={value}" for name, value in settings.items())]
        words += ["bash", "-c", f"cd {shlex.quote(CLONE)} && {command}"]
        script = "\n".join(
            [
                "set -e",
                f"ROOT={shlex.quote(str(self.folder))}",
                *(f'mount --rbind /{name} "$ROOT"/{name}' for name in ("proc", "sys", "dev")),
                *(f'mkdir -p "$ROOT"{folder} && mount --bind {folder} "$ROOT"{folder}' for folder in _pip_folders()),
                before,
                "exec " + shlex.join(words),
            ]
        )
        outside = ["unshare", *unshare.split(), "--propagation", "slave", "sh", "-c", script]
        return subprocess.run(
            outside,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )


def _mirror() -> str:
    """Return the address from which this machine gets its Debian packages."""
    for file in sorted([*Path("/etc/apt/sources.list.d").glob("*.sources"), *Path("/etc/apt").rglob("*.list")]):
        if found := re.search(r"^(?:URIs:|deb(?: \[[^]]*\])?)\s+(\S+)", file.read_text(), re.M):
            return found[1]
    raise SystemExit("this machine has no Debian package source")


def _pip_folders() -> list[str]:
    """Return the folders of this machine that pip's settings name (wheels, an index in files)."""
    shown = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    words = re.split(
        r"[\s='\"]+", shown + " ".join(value for name, value in os.environ.items() if name.startswith("PIP_"))
    )
    folders = (
        word.removeprefix("file://").removesuffix("/simple") for word in words if word.startswith(("/", "file:///"))
    )
    return sorted({folder for folder in folders if Path(folder).is_dir()})


if __name__ == "__main__":
    options = dict(word.split("=", 1) for word in sys.argv[1:-1])
    if len(sys.argv) < 2 or set(options) - {"release", "folder"}:
        sys.exit(__doc__)
    if reason := lacking():
        sys.exit(f"minimal_root: {reason}")
    release = options.get("release", "bookworm")
    root = MinimalRoot(Path(options.get("folder", f"{tempfile.gettempdir()}/glt-minimal-{release}")), release).make()
    root.clone()
    done = root.run(sys.argv[-1])
    print(done.stdout)
    sys.exit(done.returncode)
