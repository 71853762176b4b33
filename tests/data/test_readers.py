"""What the manual says caches cost is what their layouts do."""

from conftest import REPOSITORY

from reals.data import cache, readers
from reals.experiment.load import load
from reals.planning import networks


def test_the_costs_in_the_manual_are_those_of_the_layouts(project):
    lines = [line.split("|")[1:-1] for line in (REPOSITORY / "docs/caches.md").read_text().splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line] for line in lines[2:] if len(line) == 6]
    assert len(rows) == 7
    train = {"demo": 4000, "cifar10": 50000}
    for name, of, images, flips, row, size in rows:
        scale = load(name).scale
        n = scale.data.expected_images or train[name]
        width = networks.teacher_width(scale.teachers["large"])
        views = 2 if scale.data.flip else 1
        planned = (
            readers.latent_layout(n, views, scale.latent.channels, scale.latent_size)
            if of == "latents"
            else readers.feature_layout(n, views, scale.teacher_grid, width, of.endswith("cls"))
        )
        stated = " + ".join(" x ".join(map(str, shape)) for shape in planned.fields.values())
        assert [images, flips, row, size] == [f"{n:,}", str(planned.flips), stated, cache.amount(planned.bytes)], (name, of)
