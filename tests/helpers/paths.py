"""Paths of the project, its tests and their files."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
PROJECT = TESTS.parent
GOLDEN = TESTS / "golden"
FAULTS = TESTS / "faults"
