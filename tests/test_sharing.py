"""A link gives back what was put in, and nothing more than that."""

import base64
import zlib

import pytest

from workbench.sharing import LINK, LINK_LIMIT, code_of, link_of, read_link
from workbench.variants import WorkbenchError


def test_a_link_is_one_word_that_gives_back_the_fields():
    fields = {"seed": 3, "rewards": {"correct": 1.0}, "name": "größer als 2"}
    link = link_of(fields)
    assert link.startswith(LINK) and link.isascii() and " " not in link
    assert read_link(f"  {link}\n") == fields


@pytest.mark.parametrize("cut", [slice(None, -12), slice(12, None), slice(0, 10)])
def test_half_a_link_is_refused(cut):
    link = link_of({"name": "a name that is long enough to be cut", "seed": 7})
    with pytest.raises(WorkbenchError, match="not a whole recipe link"):
        read_link(link[cut])


def test_a_link_unpacks_to_no_more_than_its_limit():
    bomb = zlib.compress(b'"' + b"a" * 50 * LINK_LIMIT + b'"', 9)
    with pytest.raises(WorkbenchError, match="not a whole recipe link"):
        read_link(LINK + base64.urlsafe_b64encode(bomb).decode())


def test_code_keeps_the_names_of_ones_own_functions():
    code = code_of(
        {"objective": "mine", "rewards": {"shout": 1.0, "format": 0.0}}, {"mine", "shout"}
    )
    assert "    objective=mine,\n    rewards={shout: 1.0, 'format': 0.0},\n" in code
    assert code_of({}, set()).count("wb.Recipe()") == 1
