"""The public names are frozen, and importing the package loads nothing heavy."""

import subprocess
import sys

import pytest

import workbench as wb

PUBLIC = {
    "ANCHORS",
    "OBJECTIVES",
    "REWARDS",
    "SURROGATES",
    "TASKS",
    "Guard",
    "Recipe",
    "WorkbenchError",
    "attach",
    "cross_generation",
    "evaluate",
    "load_policy",
    "panel",
    "pass_at_k",
    "runs",
    "train",
    "verdict",
}


def modules_after(code):
    """The names in sys.modules after `code` ran in a fresh interpreter."""
    code += "\nimport sys; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_public_names_are_these():
    assert set(wb.__all__) == PUBLIC
    assert set(dir(wb)) >= PUBLIC | {"__version__"}
    assert set(wb._HOMES) == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_name_resolves_to_its_own(name):
    value = getattr(wb, name)
    assert callable(value) or isinstance(value, dict)
    assert getattr(value, "__name__", name).removeprefix("workbench.") == name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = wb.trian


def test_version_is_the_distribution_s():
    from importlib.metadata import version

    assert wb.__version__ == version("rlvr-workbench")


def test_import_loads_neither_torch_nor_widgets():
    loaded = modules_after("import workbench")
    heavy = {
        "torch",
        "transformers",
        "ipywidgets",
        "plotly",
        "pandas",
        "numpy",
        "datasets",
        "sympy",
    }
    assert not loaded & heavy


def test_a_recipe_needs_no_torch():
    assert not modules_after("import workbench; workbench.Recipe()") & {"torch", "ipywidgets"}


def test_help_needs_no_torch():
    code = "from workbench.cli import build_parser; build_parser().format_help()"
    assert not modules_after(code) & {"torch", "ipywidgets", "pandas"}


def test_panel_stays_callable_once_its_package_is_imported():
    code = "import workbench as wb, workbench.panel\nassert callable(wb.panel)\n"
    assert "workbench.panel" in modules_after(code + "from workbench import panel; panel.Panel")


def test_runs_stays_callable_once_its_module_is_imported():
    code = "import workbench as wb, workbench.runs\nassert wb.runs.train and callable(wb.runs)\n"
    assert "workbench.runs" in modules_after(code)
