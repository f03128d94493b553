"""Set up `.venv` with the pinned packages, or say in one sentence what is missing.

`make venv` installs from the package index, `make venv WHEELHOUSE=DIR` from the wheels in a folder alone, and
`make wheelhouse WHEELHOUSE=DIR` fills such a folder on a machine with internet, for one without.
`make` runs this file with whatever Python it finds, so that it can name the one that is needed: standard library only,
and no syntax that Python 3.6 cannot read.
"""

import os
import re
import shutil
import subprocess
import sys
from typing import List, Optional

PROJECT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
VENV = os.path.join(PROJECT, ".venv")
OLDEST, NEWEST = (3, 11), (3, 14)  # for these all pinned packages have wheels
LEAST_GB = 2.5  # free on the disk; .venv takes 1.7 GB with torch for CPUs
SPACE = (
    "the environment takes 1.7 GB with torch for CPUs and 5.4 GB with torch for CUDA, and while it is made as much "
    "again in %s and in pip's cache"
)
OTHER_PYTHON = "make PYTHON=python3.11 ..."

# What pip's log says when it fails -> what it means; the first that is found counts.
PIP_FAILED = [
    (
        r"No space left on device|Errno 28\b|Disk quota exceeded|Errno 122\b",
        "a disk is full or a quota used up: {space}; make room and run make again, it goes on",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError",
        "the package index shows a certificate that this machine does not trust: install ca-certificates, or name your "
        "site's with PIP_CERT=FILE",
    ),
    (
        r"NewConnectionError|name resolution|Name or service not known|Network is unreachable|Connection refused|"
        r"timed out|Max retries exceeded|ProxyError",
        "no package index can be reached from this machine: with a proxy set https_proxy; without internet make a "
        "wheelhouse elsewhere (make wheelhouse) and install from it: make venv WHEELHOUSE=DIR",
    ),
    (
        r"No matching distribution found",
        "the package index has no wheel of a pinned package for this Python and machine ({machine}); the lines above "
        "name it",
    ),
]


def main(words: List[str]) -> None:
    """Make the environment, or end with the sentence that says why not.

    Args:
        words: none; or `from` and a folder of wheels to install from; or `into` and a folder to fill with them.
    """
    refused = why_not() or (words[:1] == ["from"] and why_no_wheels(words[1]))
    if refused:
        sys.exit("set-up stopped: " + refused)
    owner = owner_of(PROJECT)
    if owner != owner_of_process():
        print(
            "note: {} belongs to {} and make runs as {}, who will own what it writes".format(
                PROJECT, owner, owner_of_process()
            )
        )
    python = os.path.join(VENV, "bin", "python")
    if not runs(python, "-m", "pip", "--version"):
        subprocess.check_call([sys.executable, "-m", "venv", "--clear", VENV])
    if words[:1] == ["into"]:
        folder = os.path.abspath(words[1])
        print("== fetching the pinned packages into {} (some minutes)".format(folder), flush=True)
        pip(python, None, "wheel", "--wheel-dir", folder, *fetched())
        print("== {} is filled: make venv WHEELHOUSE=DIR installs from it, without internet".format(folder))
        return
    print("== installing the pinned packages into .venv (torch and deepspeed are large; some minutes)", flush=True)
    pip(python, os.path.abspath(words[1]) if words else None, "install", "-r", "requirements.txt")
    open(os.path.join(VENV, ".installed"), "w").close()


def pip(python: str, wheels: Optional[str], command: str, *words: str) -> None:
    """Run a command of pip's, or end with the sentence that says why it failed.

    Args:
        python: the environment's, which hears no PYTHONPATH: what a module puts there would count as installed.
        wheels: the folder to take packages from alone; None for the package index.
        command: install or wheel.
        words: what follows.
    """
    log = os.path.join(VENV, "pip.log")
    if os.path.exists(log):
        os.remove(log)
    start = [python, "-I", "-m", "pip", command, "--disable-pip-version-check", "--log", log]
    only = ["--no-index", "--find-links", wheels] if wheels else []
    code = subprocess.call(start + only + list(words), cwd=PROJECT)  # a relative -e . is this folder's
    if code:
        sys.exit("set-up stopped: " + what_pip_met(log, wheels))


def fetched() -> List[str]:
    """Return what a wheelhouse holds: the pinned packages, and what builds the project itself, which is not one."""
    with open(os.path.join(PROJECT, "requirements.txt"), encoding="utf-8") as file:
        lines = [line.partition("#")[0].strip() for line in file]
    return [line for line in lines if line and not line.startswith("-")] + ["setuptools>=77", "wheel"]


def why_no_wheels(folder: str) -> Optional[str]:
    """Return the sentence that says why a folder is no wheelhouse, or None."""
    if os.path.isdir(folder) and any(name.endswith(".whl") for name in os.listdir(folder)):
        return None
    return (
        "WHEELHOUSE={} is no folder of wheels: `make wheelhouse WHEELHOUSE=DIR` makes one on a machine with internet, "
        "the same Python and the same kind of processor".format(folder)
    )


def why_not() -> Optional[str]:
    """Return the sentence that says what this Python, folder or disk lacks, or None."""
    here = "Python {}.{} ({})".format(sys.version_info[0], sys.version_info[1], sys.executable)
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        return (
            "the pinned packages need Python 3.{} to 3.{}, and this is {}. Install one (Debian 12 or 13: apt-get "
            "install python3 python3-venv; Red Hat: dnf install python3.11; conda: conda create -n glt python=3.11) "
            "and name it: {}".format(OLDEST[1], NEWEST[1], here, OTHER_PYTHON)
        )
    try:
        import ensurepip
        import venv
    except ImportError:
        return (
            "{} cannot make environments, its package venv is missing: apt-get install python3-venv (Debian, Ubuntu), "
            "or name a Python that can (Red Hat: dnf install python3.11; conda: conda create -n glt python=3.11): "
            "{}".format(here, OTHER_PYTHON)
        )
    del ensurepip, venv
    if os.pathsep in PROJECT:
        return "no environment can be made in a folder with '{}' in its name: rename {}".format(os.pathsep, PROJECT)
    for folder in (PROJECT, VENV):
        if os.path.exists(folder) and not os.access(folder, os.W_OK):
            return "{} belongs to {} and cannot be written by {}: run make as {}, or in a clone of your own".format(
                folder, owner_of(folder), owner_of_process(), owner_of(folder)
            )
    disk = VENV if os.path.exists(VENV) else PROJECT
    free_gb = shutil.disk_usage(disk).free / 1e9
    if free_gb < LEAST_GB and not os.path.exists(os.path.join(VENV, ".installed")):
        return "the disk of {} has {:.1f} GB free: {}".format(disk, free_gb, SPACE % temporary())
    return None


def what_pip_met(log: str, wheels: Optional[str] = None) -> str:
    """Return what the log of a failed pip means, in one sentence; `wheels`: the folder that it installed from."""
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError:  # a full disk may not even hold the log
        text = "No space left on device" if shutil.disk_usage(VENV).free < 1e6 else ""
    values = {"space": SPACE % temporary(), "machine": os.uname().machine}
    if wheels and re.search(r"No matching distribution found", text):
        return (
            "{} lacks a wheel for this Python and machine ({machine}), the lines above name it: `make wheelhouse` "
            "again, with the same Python version and the same requirements.txt".format(wheels, **values)
        )
    for pattern, sentence in PIP_FAILED:
        if re.search(pattern, text):
            return sentence.format(**values)
    return "pip could not install the packages; its last lines above say why, all of them are in {}".format(log)


def runs(*command: str) -> bool:
    """Say whether a command can be started and ends well."""
    try:
        return subprocess.call(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def temporary() -> str:
    """Return the folder that pip unpacks in."""
    return os.environ.get("TMPDIR", "/tmp")  # not tempfile's word, which fails where the disk is full


def owner_of(path: str) -> str:
    """Return the name of the user whom a file belongs to."""
    return name_of(os.stat(path).st_uid)


def owner_of_process() -> str:
    """Return the name of the user who runs this."""
    return name_of(os.geteuid())


def name_of(uid: int) -> str:
    """Return a user's name, or the number where there is none."""
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return "user {}".format(uid)


if __name__ == "__main__":
    main(sys.argv[1:])
