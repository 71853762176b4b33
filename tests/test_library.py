"""What other people's code may import: the manual's examples run, signatures stay, types are shipped, and nothing is imported unasked."""

import importlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import types
import venv
import zipfile
from dataclasses import is_dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from PIL import Image
from small import random_inception_weights, tiny

from reals.method.models import autoencoder
from reals.method.models.transformer import Transformer, TransformerConfig
from reals.rng import generator

PUBLIC = ("reals.method", "reals.measure")
PINNED = Path(__file__).parent / "library.json"
EXAMPLES = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs/library.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory) -> Path:
    """A folder with small files of the names that the examples use."""
    folder = tmp_path_factory.mktemp("library")
    autoencoder.save(tiny(), 0.5, folder / "sd-vae-ft-ema")
    config = TransformerConfig(
        width=384, depth=1, heads=6, patch=2, latent_channels=4, latent_size=8, classes=1000, learn_sigma=True
    )
    torch.save(Transformer(config).state_dict(), folder / "SiT-XL-2-256x256.pt")
    random_inception_weights(folder / "weights-inception-2015-12-05-6726825d.pth")
    images = torch.randint(0, 256, (12, 32, 32, 3), generator=generator(0, "images"), dtype=torch.uint8).numpy()
    np.savez(folder / "samples.npz", images[:6])
    (folder / "real_images").mkdir()
    for i, image in enumerate(images[6:]):
        Image.fromarray(image).save(folder / f"real_images/{i}.png")
    return folder


def title(example: str) -> str:
    return ", ".join(re.findall(r"^from reals\.\w+ import (.+)$", example, re.MULTILINE))


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=title)
def test_an_example_runs_and_is_short(example, stand_ins, monkeypatch, capsys):
    monkeypatch.chdir(stand_ins)
    names: dict = {"__name__": "example"}
    exec(example, names)
    lines = [line for line in example.splitlines() if line and not line.startswith(("import ", "from "))]
    assert len(lines) <= 10
    if "field" in names:  # the closed form that the page states
        for x in (names["ode"], names["sde"]):
            assert abs(x.mean() - 2) < 0.03 and abs(x.std() - 0.5) < 0.03
    if "images" in names and isinstance(names["images"], torch.Tensor):
        assert names["images"].shape == (2, 3, 32, 32) and names["images"].dtype == torch.uint8


def signatures() -> dict[str, list[str]]:
    """Each public callable -> its parameters as text; a module among the public names stands for the functions it defines."""
    found = {}
    for package in map(importlib.import_module, PUBLIC):
        for name in package.__all__:
            value = getattr(package, name)
            members = {name: value}
            if isinstance(value, types.ModuleType):
                members = {
                    f"{name}.{key}": member
                    for key, member in vars(value).items()
                    if not key.startswith("_")
                    and getattr(member, "__module__", "") == value.__name__
                    and inspect.isroutine(member)
                }
            for key, member in members.items():
                found[f"{package.__name__}.{key}"] = [written(p) for p in inspect.signature(member).parameters.values()]
    return dict(sorted(found.items()))


def written(parameter: inspect.Parameter) -> str:
    """Name, default and whether it is given by name alone; annotations are for mypy."""
    text, default = parameter.name, parameter.default
    if default is not parameter.empty:
        settings = (
            f"{type(default).__name__}()" if is_dataclass(default) else repr(default)
        )  # its fields are a signature of their own
        text += f"={getattr(default, '__name__', settings)}"
    return f"{text}, by name" if parameter.kind is parameter.KEYWORD_ONLY else text


def test_signatures_stay(request):
    """A later version adds names, and parameters with a default behind those there are; nothing else (`--fix` writes them down)."""
    now = signatures()
    if request.config.getoption("--fix"):
        lines = (f" {json.dumps(name)}: {json.dumps(parameters)}" for name, parameters in now.items())
        PINNED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    for name, before in json.loads(PINNED.read_text()).items():
        assert name in now, f"{name} is gone; docs/library.md promises it"
        assert [p for p in now[name] if p in before] == before, f"{name} was ({', '.join(before)})"
        added = [p for p in now[name] if p not in before]
        assert all("=" in p for p in added), f"{name}: a new parameter needs a default"
        assert now[name][: len(before)] == before or all("by name" in p for p in added), (
            f"{name}: a new one goes behind the others"
        )


def test_every_public_name_stands_in_the_page():
    text = (REPOSITORY / "docs/library.md").read_text()
    names = [name for package in PUBLIC for name in importlib.import_module(package).__all__]
    assert [name for name in names if not re.search(rf"\b{name}\b", text)] == []


def test_a_star_import_brings_the_public_names_and_no_other():
    for package in PUBLIC:
        names: dict = {}
        exec(f"from {package} import *", names)
        assert sorted(set(names) - {"__builtins__"}) == importlib.import_module(package).__all__
        assert set(names) - {"__builtins__"} <= set(dir(importlib.import_module(package)))  # what a notebook completes
    with pytest.raises(ImportError, match="align_los"):
        exec("from reals.method import align_los")


def test_a_public_function_is_no_module_of_the_same_name():
    import reals.method.autoencoder_objective  # noqa: F401 - importing a module sets its name in the package
    from reals.method import autoencoder_loss

    assert callable(autoencoder_loss)


@pytest.mark.process
def test_the_packages_themselves_import_nothing_heavy():
    program = "import sys, reals.method, reals.measure; print(*{'torch', 'numpy', 'diffusers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split() == []


OUTSIDE = """\
from reals.measure import frechet_distance
from reals.method import align_loss, autoencoder_loss, checkpoints

reveal_type(align_loss)
reveal_type(autoencoder_loss)
reveal_type(checkpoints.load)
reveal_type(frechet_distance)
checkpoints.load("a.pt", heads="two")
"""


@pytest.mark.extra
def test_the_wheel_ships_types_that_a_strangers_mypy_reads(tmp_path):
    """And whatever lies beside the modules: templates, styles, the marker itself. The stranger has no torch."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, tmp_path)
    shutil.copytree(REPOSITORY / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", "wheels", "."]
    subprocess.run(pip, cwd=tmp_path, check=True)
    venv.create(tmp_path / "theirs")
    (site,) = (tmp_path / "theirs/lib").glob("*/site-packages")
    with zipfile.ZipFile(next(tmp_path.glob("wheels/*.whl"))) as wheel:
        shipped = {name for name in wheel.namelist() if name.startswith("reals/")}
        wheel.extractall(site)
    source = tmp_path / "src"
    assert shipped == {str(path.relative_to(source)) for path in (source / "reals").rglob("*") if path.is_file()}
    (tmp_path / "outside.py").write_text(OUTSIDE)
    mypy = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file=",
        "--ignore-missing-imports",
        "--python-executable",
        "theirs/bin/python",
        "outside.py",
    ]
    said = subprocess.run(mypy, cwd=tmp_path, capture_output=True, text=True, env={"PATH": os.environ["PATH"]}).stdout
    revealed = re.findall(r'Revealed type is "(.*)"', said)
    assert ["Losses" in revealed[0], "AutoencoderLoss" in revealed[1], "Checkpoint" in revealed[2], "float" in revealed[3]] == [
        True
    ] * 4
    assert said.count("error:") == 2 and said.count("[arg-type]") == 2, said


TOUR = re.findall(r"```python\n(.*?)```", (REPOSITORY / "docs/tour.md").read_text(), re.DOTALL)


def test_the_tour_goes_from_an_image_to_a_sample(finished, tmp_path, monkeypatch, capsys):
    """The page as it is, on the smoke run instead of the demo: its sheets and results, found by the same names."""
    for name in ("config", "results"):
        (tmp_path / name).symlink_to(finished / name)
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "tour"}
    try:
        for block in TOUR:
            exec(block.replace('load("demo")', 'load("smoke")'), names)
    finally:
        torch.set_grad_enabled(True)
    with Image.open("tour.png") as picture:
        assert picture.size == (1280, 128)
    printed = capsys.readouterr().out
    assert all(
        word in printed for word in ("sd-vae latents (64, 4, 8, 8)", "reals: semantic consistency", "t = 0.5:", "cfg 2.0: fid")
    )
    assert {"fid", "precision", "recall"} <= names["found"].keys() and np.isfinite(names["found"]["fid"])
