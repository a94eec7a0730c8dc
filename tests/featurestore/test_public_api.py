"""The public names of the package, loaded when they are first used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import featurestore
import featurestore.errors


@pytest.mark.parametrize("name", featurestore.__all__)
def test_each_public_name_can_be_imported(name):
    assert getattr(featurestore, name).__name__ == name


def test_every_error_is_public():
    errors = {name for name, value in vars(featurestore.errors).items() if isinstance(value, type)}
    assert errors <= {*featurestore.__all__}
    assert all(
        issubclass(getattr(featurestore, name), (featurestore.FeatureStoreError, Warning))
        for name in errors
    )


def test_type_checkers_see_the_same_names_from_the_same_modules():
    tree = ast.parse(Path(featurestore.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    typed = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == featurestore._MODULE_OF


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'featurestore' has no attribute 'no_such_name'"):
        _ = featurestore.no_such_name


def test_importing_the_package_loads_no_database_and_no_model():
    code = "import featurestore, sys; print(*sorted({'duckdb', 'numpy', 'torch'} & {*sys.modules}))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == ""
