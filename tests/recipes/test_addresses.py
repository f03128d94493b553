"""Addresses that no command can read are refused in one sentence, by every word, before any folder is made of them."""

from __future__ import annotations

import pytest

from recipes.common.cli import folder_and_options, key_values
from recipes.common.errors import DataError, RecipeError
from recipes.resolve import resolve
from sharding.building.request import parse
from sharding.open import open_dataset

pytestmark = pytest.mark.fast
OTHERS = ("s3://bucket/glt", "HTTP://host/glt", "HTTPS://host/glt", "ftp://host/glt", "gs://bucket", "file:///data")
OTHERS += ("hdfs:/x", "S3:/bucket", "http:/host/glt", "file:/data", "abfss:/x")


@pytest.mark.parametrize("address", OTHERS)
def test_a_data_root_of_another_kind_says_what_can_be_read(address: str) -> None:
    """http and https in small letters, and any store by a command in the site file: in a recipe, and for who opens."""
    for ask, kind in (
        (lambda: resolve(["data=digits_glt", f"data.root={address}"]), RecipeError),
        (lambda: open_dataset(address, "digits_glt"), DataError),
    ):
        with pytest.raises(kind, match=rf"^data.root={address} is not legal: http.*small letters.*root: pipe:COMMAND"):
            ask()
    assert resolve(["data=digits_glt", "data.root=http://host/glt"]).data.root == "http://host/glt"


@pytest.mark.parametrize("address", [*OTHERS, "http://host/x"])
@pytest.mark.parametrize("key", ["out", "source", "weights", "annotation"])
def test_no_word_of_a_build_takes_an_address(address: str, key: str) -> None:
    """It would become a folder `s3:`; a prefix of the paths in split files may be one."""
    words = [f"{name}=x" for name in ("out", "source") if name != key]
    with pytest.raises(DataError, match=f"^{key}={address} is not legal: it is an address, and a folder or file"):
        parse(["data=imagenet_glt", *words, f"{key}={address}"])
    taken = parse(["data=imagenet_glt", "out=x", "source=y", "annotation=z", f"prefix={address}/="])
    assert taken[1].prefix == ((f"{address}/", ""),)


def test_no_command_takes_an_address_for_a_folder() -> None:
    """Neither as a value of key=value nor as the folder that a command begins with."""
    with pytest.raises(DataError, match=r"^runs=s3://a/b is not legal: it is an address"):
        key_values(["runs=s3://a/b"], ("runs",))
    with pytest.raises(DataError, match=r"^s3://a/b is not legal: it is an address"):
        folder_and_options(["s3://a/b"], ())
    with pytest.raises(DataError, match=r"^files=x,s3:/b is not legal: it is an address"):
        key_values(["files=x,s3:/b"], ("files",))
    assert folder_and_options(["./s3:/b", "at=a:/b"], ("at",)) == ("./s3:/b", {"at": "a:/b"})


def test_a_recipe_is_no_address() -> None:
    """Of which a path would be made, and that be said not to exist."""
    with pytest.raises(RecipeError, match=r"^recipe=s3://b/x.yaml is not legal: it is an address"):
        resolve(["recipe=s3://b/x.yaml"])
