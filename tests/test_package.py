"""The wheel carries data and notebooks, and works where there is no checkout."""

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built by the backend itself: no network, no isolated environment."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling, the build backend, is not installed; getting it needs a network")
    out = tmp_path_factory.mktemp("wheel")
    code = f"from hatchling.build import build_wheel; build_wheel({str(out)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    return path


def test_the_wheel_holds_every_shipped_file(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, inside in (("data", "_data"), ("notebooks", "_notebooks")):
        files = [p for p in (ROOT / folder).rglob("*") if p.is_file() and not ignored(p)]
        assert files
        for path in files:
            assert f"workbench/{inside}/{path.relative_to(ROOT / folder).as_posix()}" in names
    assert "workbench/py.typed" in names
    assert any(name.endswith("entry_points.txt") for name in names)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def ignored(path):
    return ".ipynb_checkpoints" in path.parts or "__pycache__" in path.parts


def test_the_wheel_stays_under_20_mb(wheel):
    assert wheel.stat().st_size < 20e6


def test_the_unpacked_wheel_works_away_from_the_checkout(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import sys; sys.path.insert(0, 'site')\n"
        "import workbench as wb, workbench.packaged as packaged\n"
        "assert 'site' in wb.__file__ and not packaged.in_checkout()\n"
        "from workbench.cli import notebook_folder\n"
        "print(sorted(p.name for p in notebook_folder().iterdir())[0])\n"
        "print(len(wb.TASKS['gsm8k'].dataset('train')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    first, rows = done.stdout.split()
    assert first == "00_quickstart.ipynb"
    assert int(rows) > 20
