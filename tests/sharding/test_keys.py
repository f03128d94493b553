"""Keys of samples: today's spelling wherever it will do, and told apart where it will not."""

from __future__ import annotations

import re

from sharding.building.keys import plain_key, unique_keys


def test_only_keys_that_meet_are_changed() -> None:
    """A digest of the source is added to all that have one key in a split, and to all that differ in case alone in two
    splits of an edition; whatever else is there, every other key keeps the file's name.
    """
    glt = {
        "train": ["n1/a b.JPEG", "n1/a_b.JPEG", "n2/A_B.JPEG", "n1/c.d.JPEG", "n1/E.JPEG", "n2/e.JPEG", "n1/f.JPEG"],
        "val": ["n3/a_b.JPEG", "n1/g.jpg", "n1/犬.JPEG", "n1/猫.JPEG", "n1/ab.JPEG"],
        "test": ["n1/G.JPEG", "n1/h.JPEG"],
    }
    cbl = {"train": ["n1/h.JPEG", "n9/f.JPEG"], "test": ["n1/G.JPEG"]}
    keys = unique_keys({"glt": glt, "cbl": cbl})
    plain = {source: key for source, key in keys.items() if key == plain_key(source)}
    assert plain == {
        "n1/c.d.JPEG": "c_d",
        "n1/E.JPEG": "E",
        "n2/e.JPEG": "e",
        "n1/f.JPEG": "f",
        "n9/f.JPEG": "f",
        "n1/ab.JPEG": "ab",
        "n1/h.JPEG": "h",
    }
    changed = {source: key for source, key in keys.items() if source not in plain}
    assert all(re.fullmatch(re.escape(plain_key(source)) + "-[0-9a-f]{16}", key) for source, key in changed.items())
    assert len({key.casefold() for key in changed.values()}) == len(changed) == 8
    assert plain_key("n1/犬.JPEG") == "_" == plain_key("n1/猫.JPEG")


def test_a_key_depends_on_its_file_alone_once_it_is_changed() -> None:
    """Neither the order nor what else is there changes the digest."""
    two, three = ({"e": {"train": names}} for names in (["x/0.jpg", "y/0.jpg"], ["z/0.jpg", "y/0.jpg", "x/0.jpg"]))
    assert unique_keys(two).items() <= unique_keys(three).items()
