"""Stand-ins of real model families, made once."""

import pytest

from .standins import write_judge, write_standin


@pytest.fixture(scope="session")
def standin(tmp_path_factory):
    """Family -> folder of its stand-in."""
    made = {}

    def build(family):
        if family not in made:
            made[family] = write_standin(family, tmp_path_factory.mktemp(family))
        return made[family]

    return build


@pytest.fixture(scope="session")
def judge(tmp_path_factory):
    """The folder of a random reward model in the shape of Qwen2.5."""
    return write_judge("qwen2.5", tmp_path_factory.mktemp("judge"))
