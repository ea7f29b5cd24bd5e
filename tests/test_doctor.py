"""Findings for made-up installations, and the table for this one."""

import re
from pathlib import Path

import pytest

from workbench import doctor
from workbench.devices import Facts
from workbench.doctor import BROKEN, OK, PACKAGES, WARNING, Package, check_package, numbers

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"


def test_the_packages_are_the_dependencies():
    block = re.search(
        r"^dependencies = \[(.*?)^\]", PYPROJECT.read_text(), re.DOTALL | re.MULTILINE
    )
    # A line with a marker (;) only narrows one without.
    declared = re.findall(r'^ +"([^";]*)"', block[1], re.MULTILINE)
    assert len(declared) > 10
    parsed = {}
    for text in declared:
        name, floor, below = re.fullmatch(
            r"([\w-]+)(?:\[.*\])?>=([\d.]+)(?:,<([\d.]+))?", text
        ).groups()
        parsed[name] = (floor, below or "")
    assert {p.name: (p.floor, p.below) for p in PACKAGES} == parsed
    assert doctor.CONSEQUENCES.keys() <= parsed.keys()


@pytest.mark.parametrize(
    ("name", "version", "level", "fix"),
    [
        ("ipykernel", "7.0.1", BROKEN, r'"ipykernel>=7.1".*can.t publish from threads'),
        ("ipykernel", "7.4.0", OK, "^$"),
        ("anywidget", None, BROKEN, r"pip install .anywidget.*restart the JupyterLab server"),
        ("bitsandbytes", None, BROKEN, r"quantize='none'"),
        ("torch", "2.13.0+cpu", OK, "^$"),
        ("torch", "2.14.0", WARNING, r"torch>=2\.10,<2\.14"),
        ("transformers", "4.57.1", BROKEN, r"transformers>=5\.17,<6"),
        ("plotly", "6.0.1", BROKEN, r"wrong size"),
        ("ipywidgets", "8.1.7", BROKEN, r"ipykernel 7"),
    ],
)
def test_known_bad_versions_are_named_with_the_fix(name, version, level, fix):
    package = next(package for package in PACKAGES if package.name == name)
    finding = check_package(package, version)
    assert finding.level == level
    assert re.search(fix, finding.fix)


def test_versions_compare_by_number():
    assert numbers("2.9") < numbers("2.10") < numbers("2.10.1") < numbers("3")
    assert numbers("2.13.0+cpu") == numbers("2.13")
    assert numbers("8.1.8rc1") == (8, 1, 8)


def test_a_kernel_or_server_of_another_environment_is_a_warning(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/elsewhere/bin/{name}")
    monkeypatch.setattr(doctor, "kernel_python", lambda: "/elsewhere/bin/python")
    monkeypatch.setattr(doctor, "stale_servers", lambda: ["http://localhost:8888/"])
    findings = list(doctor.check_jupyter())
    assert [finding.level for finding in findings] == [WARNING] * 3
    assert "workbench lab" in findings[0].fix
    assert "ipykernel install" in findings[1].fix
    assert "server, not only the kernel" in findings[2].fix


@pytest.mark.parametrize(
    ("facts", "level", "found"),
    [
        (Facts("cuda", (8, 9)), OK, "24 GiB, computes in bfloat16$"),
        (
            Facts("cuda", (7, 5)),
            OK,
            "no bfloat16: computes in float16, adapters in float32, with loss",
        ),
        (Facts("cuda", (9, 4), amd=True), WARNING, "not used$"),
        (Facts("mps"), OK, "computes in float32, without quantisation"),
    ],
    ids=str,
)
def test_each_card_says_what_it_will_do(facts, level, found):
    finding = doctor.check_card("gpu 0", "A card", 24 * 2**30, facts)
    assert finding.level == level and re.search(found, finding.found)
    assert bool(finding.fix) == (level == WARNING)


def test_a_missing_model_is_broken_and_says_how_to_make_it(monkeypatch):
    def missing(*parts):
        raise doctor.WorkbenchError("gone")

    monkeypatch.setattr(doctor, "data_path", missing)
    findings = list(doctor.check_models())
    assert {finding.level for finding in findings} == {BROKEN}
    assert findings[0].fix == "workbench pretrain tiny-strong"


def test_main_prints_the_table_and_returns_1_when_something_is_broken(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "check_models", lambda: iter(()))
    assert doctor.main() == 0
    printed = capsys.readouterr().out
    for name in ("python", "torch", "gpu", *(package.name for package in PACKAGES)):
        assert re.search(rf"^ok +{name}\b|^warning +{name}\b", printed, re.MULTILINE), name
    assert printed.endswith("Nothing needed is broken.\n")

    monkeypatch.setattr(doctor, "PACKAGES", (Package("no-such-package", "1.2"),))
    assert doctor.main() == 1
    printed = capsys.readouterr().out
    assert 'pip install "no-such-package>=1.2"' in printed
    assert printed.endswith("1 broken.\n")
