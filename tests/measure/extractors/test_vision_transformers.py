"""DINOv2 and CLIP give pool features alone, with positions resampled as DINOv2 does."""

import hashlib

import pytest
import timm
import torch
from small import image_bytes

from reals.measure.extractors.vision_transformers import VITS, Vit, by_pillow, dinov2_positions, vision_transformer
from reals.rng import generator


def test_positions_are_resampled_as_dinov2_does():
    # The authors' own code gave the same bits for this draw; here: no antialiasing, no mixing of rows and columns.
    positions = torch.randn(1, 1 + 37 * 37, 4, generator=generator(0, "positions"))
    found = dinov2_positions(positions, 16)
    assert found.shape == (1, 257, 4) and torch.equal(found[:, 0], positions[:, 0])
    smooth = torch.linspace(0, 1, 37).view(1, 37, 1, 1).expand(1, 37, 37, 4).reshape(1, -1, 4)
    ramp = dinov2_positions(torch.cat([positions[:, :1], smooth], 1), 16)[0, 1:].view(16, 16, 4)
    assert (ramp.std(dim=1) < 1e-6).all() and (ramp.diff(dim=0) > 0).all()


def test_pillow_resizes_as_stein_et_al_do():
    """dgm-eval's transform, torchvision's on a Pillow image, to the bit; images of the right side stay as they are."""
    from PIL import Image
    from torchvision import transforms

    theirs = transforms.Compose([transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC), transforms.PILToTensor()])
    for side in (32, 256, 300):
        x = image_bytes(3, side)
        expected = torch.stack([theirs(Image.fromarray(image.permute(1, 2, 0).numpy())) for image in x])
        assert torch.equal(by_pillow(x, 224), expected)
    x = image_bytes(2, 224)
    assert torch.equal(by_pillow(x, 224), x)


def test_the_published_judges_are_their_authors():
    assert (VITS["dinov2"].side, VITS["dinov2"].projected, VITS["dinov2"].pillow) == (224, False, True)
    clip = VITS["clip-l-14-336"]
    assert (clip.side, clip.projected, clip.pillow) == (336, True, True)
    with torch.device("meta"):
        network = timm.create_model(clip.timm)  # the hub's head is the projection into the shared space
    assert network.head.out_features == 768 and network.patch_embed.grid_size == (24, 24)
    assert timm.get_pretrained_cfg(clip.timm).mean == (0.48145466, 0.4578275, 0.40821073)


@pytest.mark.slow
@pytest.mark.parametrize(("projected", "pillow"), [(False, False), (True, True)])
def test_a_vision_transformer_gives_pool_features_alone(tmp_path, projected, pillow):
    vit = Vit("small", "vit_tiny_patch16_224.augreg_in21k_ft_in1k", projected=projected, pillow=pillow)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        peer = timm.create_model(vit.timm, num_classes=1000 if projected else 0).eval()
    torch.save(peer.state_dict(), tmp_path / "w.pth")
    extractor = vision_transformer(vit, tmp_path / "w.pth", hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest())
    x = image_bytes(2, 48)
    features = extractor.features(x)
    resized = torch.nn.functional.interpolate(x.float(), size=(224, 224), mode="bicubic", antialias=True)
    resized = by_pillow(x, 224).float() if pillow else resized
    with torch.no_grad():
        expected = peer((resized / 255 - 0.5) / 0.5)
    torch.testing.assert_close(features.pool, expected, rtol=1e-3, atol=1e-4)
    assert features.spatial.shape == features.logits.shape == (2, 0)
    assert extractor.sha256 == vision_transformer(vit, tmp_path / "w.pth").sha256
    with pytest.raises(ValueError, match="fetch the file again"):
        vision_transformer(vit, tmp_path / "w.pth", "0" * 64)
    for content in (b"no weights", ["a list"], {"a": "b"}, {"model": None}):
        if isinstance(content, bytes):
            (tmp_path / "w.pth").write_bytes(content)
        else:
            torch.save(content, tmp_path / "w.pth")
        with pytest.raises(ValueError, match=r"small: .*w\.pth cannot be loaded"):
            vision_transformer(vit, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="no such file"):
        vision_transformer(vit, tmp_path / "nowhere.pth")
