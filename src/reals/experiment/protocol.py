"""What a scale says of how its figures are measured; what was done, each metrics file says of itself."""

from pathlib import Path

from reals.experiment.registry import Registry


def protocol(registry: Registry) -> dict[str, str]:
    """As printed above what is not measured yet: what -> how."""
    scale, seeds = registry.experiment.scale, registry.experiment.scale.seeds
    steps = ", ".join(f"{name} = {n:,}" if name != str(n) else name for name, n in scale.milestones.items())
    return {
        "data": f"{scale.data.name} {scale.data.resolution}x{scale.data.resolution}",
        "transformer steps": f"{steps}, batch {scale.transformer.batch}",
        "samples": f"{scale.sampling.samples:,}, {scale.sampling.labels} labels",
        "sampler": f"{scale.sampling.steps} steps (SiT: SDE Euler-Maruyama; DiT: respaced DDPM)"
        + (f", {scale.sampling.precision}" if scale.sampling.precision else ""),
        "feature extractor": scale.evaluation.extractor.name,
        "reference": Path(scale.evaluation.reference).name if scale.evaluation.reference else "all training images; "
        f"precision and recall against {scale.evaluation.pr_reference:,} of them",
        "LPIPS": f"{scale.autoencoder.lpips.net}, {scale.autoencoder.lpips.backbone} backbone",
        "seeds": ", ".join(f"{k} {v}" for k, v in seeds.model_dump().items()),
    }  # fmt: skip
