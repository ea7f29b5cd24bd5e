"""What is installed, what is missing, and which known-bad pairs are there, each with its fix."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from workbench.packaged import SHIPPED_MODELS, data_path
from workbench.variants import WorkbenchError

if TYPE_CHECKING:
    from workbench.devices import Facts

OK, WARNING, BROKEN = "ok", "warning", "broken"


@dataclass(frozen=True)
class Finding:
    """One line of the table: what was looked at, what was found, and what to do about it."""

    level: str
    what: str
    found: str
    fix: str = ""


@dataclass(frozen=True)
class Package:
    """A needed distribution: the lowest version that works, and the first that was not tested."""

    name: str
    floor: str
    below: str = ""


# The dependencies of pyproject.toml; a test holds the two equal.
PACKAGES = (
    Package("torch", "2.10", "2.14"),
    Package("transformers", "5.17", "6"),
    Package("peft", "0.21"),
    Package("bitsandbytes", "0.50"),
    Package("datasets", "4"),
    Package("safetensors", "0.6"),
    Package("math-verify", "0.9"),
    Package("jupyterlab", "4.4"),
    Package("ipykernel", "7.1"),
    Package("ipywidgets", "8.1.8"),
    Package("anywidget", "0.9.18"),
    Package("plotly", "6.1"),
    Package("pandas", "2.2"),
    Package("numpy", "2"),
    Package("scipy", "1.13"),
    Package("biopython", "1.85"),
    Package("dtaidistance", "2.3.13"),
    Package("psutil", "5.9"),
    Package("pyarrow", "18"),
    Package("pyyaml", "6"),
    Package("tqdm", "4.66"),
)

# What breaks, said where the bare version check would not say it.
CONSEQUENCES = {
    "anywidget": "plotly's live figures need it; restart the JupyterLab server afterwards",
    "bitsandbytes": "without it only quantize='none' works",
    "ipykernel": "7.0 can't publish from threads, so the panel would stand still",
    "ipywidgets": "older ones lose what threads print under ipykernel 7",
    "plotly": "6.0 draws live figures in the wrong size",
    "transformers": "older ones can't load the shipped models' tokenizer files",
}


def report() -> list[Finding]:
    """Every finding, in the order of the table."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        check_python,
        check_packages,
        check_gpu,
        check_models,
        check_jupyter,
    )
    return [finding for check in checks for finding in check()]


def main() -> int:
    """Print the table; 1 if something needed is broken, else 0."""
    findings = report()
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        print(f"{finding.level:<8} {finding.what:<{width}}  {finding.found}")
        if finding.fix:
            print(f"{'':<8} {'':<{width}}  -> {finding.fix}")
    broken = sum(finding.level == BROKEN for finding in findings)
    print(f"{broken} broken." if broken else "Nothing needed is broken.")
    return 1 if broken else 0


def check_python() -> Iterator[Finding]:
    """Python's version and where it runs from."""
    found = f"{'.'.join(map(str, sys.version_info[:3]))} at {sys.executable}"
    old = sys.version_info < (3, 10)
    yield Finding(BROKEN if old else OK, "python", found, "install Python 3.10+" if old else "")


def check_packages() -> Iterator[Finding]:
    """Each needed package: there, new enough, and not newer than what was tested."""
    for package in PACKAGES:
        yield check_package(package, installed(package.name))


def check_package(package: Package, found: str | None) -> Finding:
    """The finding for a package of version `found`; None where it is not installed."""
    name = package.name
    consequence = CONSEQUENCES.get(name, "")
    because = f" ({consequence})" if consequence else ""
    get = f'pip install "{name}>={package.floor}{",<" + package.below if package.below else ""}"'
    if found is None:
        return Finding(BROKEN, name, "missing", f"{get}{because}")
    if numbers(found) < numbers(package.floor):
        return Finding(BROKEN, name, f"{found}, older than {package.floor}", f"{get}{because}")
    if package.below and numbers(found) >= numbers(package.below):
        return Finding(WARNING, name, f"{found}, newer than tested", f"if something breaks: {get}")
    return Finding(OK, name, found)


def check_gpu() -> Iterator[Finding]:
    """The GPU torch sees and what it will do; or why torch sees none."""
    try:
        import torch
    except (ImportError, OSError) as error:
        if installed("torch") is not None:
            reason = " ".join(str(error).split())[:120]
            yield Finding(BROKEN, "torch import", reason, "install torch again")
        return
    from workbench.devices import Facts, facts_of, segments_advice

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            facts = facts_of(torch.device("cuda", index))
            yield check_card(f"gpu {index}", card.name, card.total_memory, facts)
        if advice := segments_advice("cuda", os.environ):
            yield Finding(OK, "gpu memory", "in segments of fixed size", advice)
        return
    if torch.backends.mps.is_available():
        yield check_card("gpu", "Apple", 0, Facts("mps"))
        return
    if shutil.which("nvidia-smi") is None:
        yield Finding(OK, "gpu", "none; the tiny models need none")
    elif torch.version.cuda is None:
        fix = "install a CUDA build of torch to use it"
        yield Finding(WARNING, "gpu", f"torch {torch.__version__} is built for the CPU only", fix)
    else:
        fix = "update the NVIDIA driver, or unset CUDA_VISIBLE_DEVICES"
        yield Finding(WARNING, "gpu", f"not usable by torch's CUDA {torch.version.cuda}", fix)


def check_card(what: str, name: str, memory: int, facts: Facts) -> Finding:
    """What a card will do: the type it computes in, or why it is refused."""
    from workbench.devices import dtype_of

    room = f", {memory / 2**30:.0f} GiB" if memory else ""
    try:
        dtype = str(dtype_of(facts)).removeprefix("torch.")
    except WorkbenchError as error:
        return Finding(WARNING, what, f"{name}{room}, not used", str(error))
    how = {
        "bfloat16": "computes in bfloat16",
        "float16": "no bfloat16: computes in float16, adapters in float32, with loss scaling",
        "float32": "computes in float32, without quantisation; used with device='mps' only",
    }
    return Finding(OK, what, f"{name}{room}, {how[dtype]}")


def check_models() -> Iterator[Finding]:
    """The shipped models."""
    for name in SHIPPED_MODELS:
        try:
            weights = data_path("models", name, "model.safetensors")
        except WorkbenchError:
            yield Finding(BROKEN, name, "missing", f"workbench pretrain {name}")
        else:
            yield Finding(OK, name, f"{weights.stat().st_size / 2**20:.1f} MiB")


def check_jupyter() -> Iterator[Finding]:
    """Whether JupyterLab, its kernel and this Python are one environment, and the server is fresh."""
    here = Path(sys.executable).parent
    lab = shutil.which("jupyter-lab")
    if lab is not None and Path(lab).parent.resolve() != here.resolve():
        yield Finding(
            WARNING, "jupyter-lab", f"{lab} belongs to another environment", "start: workbench lab"
        )
    kernel = kernel_python()
    if kernel is not None and Path(kernel).is_absolute() and Path(kernel).parent != here:
        fix = f"{sys.executable} -m ipykernel install --sys-prefix, and restart JupyterLab"
        yield Finding(WARNING, "kernel python3", f"runs {kernel}, not this Python", fix)
    for address in stale_servers():
        fix = "restart the JupyterLab server, not only the kernel, and reload the page"
        yield Finding(WARNING, "anywidget", f"installed after the server {address} started", fix)


def kernel_python() -> str | None:
    """The program that Jupyter's kernel "python3" starts; None where it can't be asked."""
    try:
        from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
    except ImportError:
        return None
    try:
        return str(KernelSpecManager().get_kernel_spec("python3").argv[0])
    except NoSuchKernel:
        return None


def stale_servers() -> list[str]:
    """Running Jupyter servers that started before anywidget was installed here."""
    try:
        import psutil
        from jupyter_server.serverapp import list_running_servers

        dist = importlib.metadata.distribution("anywidget")
    except ImportError:
        return []
    metadata = Path(str(dist.locate_file(""))) / f"anywidget-{dist.version}.dist-info"
    if not metadata.exists():
        return []
    since = os.stat(metadata).st_ctime
    stale = []
    for server in list_running_servers():
        try:
            if psutil.Process(server["pid"]).create_time() < since:
                stale.append(str(server["url"]))
        except psutil.Error:
            continue  # it has just ended, or is not ours to look at
    return stale


def installed(name: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def numbers(version: str) -> tuple[int, ...]:
    """(2, 13, 0) of "2.13.0+cpu": enough to compare releases; a pre-release counts as its release."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    parts = [int(part) for part in match[0].split(".")] if match else []
    return tuple([*parts, 0, 0, 0][: max(3, len(parts))])
