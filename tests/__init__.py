"""The tests, in folders named after the rooms; `tests.helpers` is what they share."""

from __future__ import annotations

import os

os.environ["GLT_SITE"] = ""  # a developer's own site file is not the tests'
