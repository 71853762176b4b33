"""`reals registry`, `publish` and `verify`: names of artefacts for DVC, what others get of finished work, and whether it is whole."""

import argparse

from reals.cli.experiment import add_experiment, add_sheets, experiment_of, registry_of
from reals.cli.subcommands import Subcommands
from reals.experiment.registry import Registry


def add(commands: Subcommands) -> None:
    text = "write config/registry.json, from which dvc.yaml knows every artefact"
    p = commands.add_parser("registry", help=text, description=text)
    p.add_argument("scales", nargs="*", help="scale names or files (those it holds already)")
    p.add_argument("--check", action="store_true", help="write nothing; fail where it is not up to date")
    add_sheets(p)
    p.set_defaults(run=registry)
    text = (
        "record finished artefacts in dvc.lock and push them to the DVC remote, or copy a scale's numbers to where git keeps them"
    )
    p = commands.add_parser("publish", help=text, description=text)
    p.add_argument("names", nargs="*", help="rows of the sheets (every kind that has the name), run@NAME for one kind, or all")
    add_experiment(p)
    what = p.add_mutually_exclusive_group()
    what.add_argument(
        "--results", action="store_true", help="write results/published/<scale>: numbers, records, tables, figures, page"
    )
    what.add_argument("--restore", action="store_true", help="take the published numbers for made here, and go on from them")
    where = p.add_mutually_exclusive_group()
    where.add_argument("--no-push", action="store_true", help="record only; push later with `dvc push`")
    where.add_argument(
        "--embed", action="store_true", help="push to results/published/store, which every clone has: for few and small ones"
    )
    p.set_defaults(run=publish)
    text = "read every file of the artefacts that are here and name those that are damaged"
    p = commands.add_parser("verify", help=text, description=text)
    p.add_argument("names", nargs="*", default=["all"], help="as for publish (all)")
    add_experiment(p)
    p.add_argument("--remove", action="store_true", help="delete what is damaged, so that snakemake remakes just that")
    p.set_defaults(run=verify)


def registry(options: argparse.Namespace) -> None:
    from reals import files
    from reals.records import publish

    path = options.sheets / publish.REGISTRY
    text = publish.document(options.scales or publish.known_scales(options.sheets), options.sheets)
    if path.exists() and path.read_text() == text:
        print(f"{path}: up to date")
    elif options.check:
        raise ValueError(f"{path} is not what the sheets say; run `reals registry`")
    else:
        files.write_text(path, text)
        print(f"{path}: written")


def publish(options: argparse.Namespace) -> None:
    if bool(options.names) == (options.results or options.restore):
        raise ValueError("expected names of artefacts, or --results, or --restore; `reals publish --help` says what each does")
    if options.results:
        publish_results(options)
    elif options.restore:
        restore_results(options)
    else:
        publish_artefacts(options)


def publish_results(options: argparse.Namespace) -> None:
    from reals.records import published

    registry = registry_of(options)
    own_data = any(override.startswith("data=") for override in registry.experiment.overrides)
    told = experiment_of(options, data=registry.experiment.scale.data.name) if own_data else registry.experiment
    if absolute := [override for override in told.overrides if "=/" in override]:
        raise ValueError(f"--config {absolute[0]}: what is published names its scale; give the file by a path below this folder")
    other = published.write(registry, Registry(told))
    from reals.report import commands

    commands.draw(other, other.root)
    for pdf in (other.root / "figures").glob("*.pdf"):  # a clone draws them again; pages show the others
        pdf.unlink()
    sizes = [path.stat().st_size for path in other.root.rglob("*") if path.is_file()]
    count = sum(1 for _ in published.measured(other))
    print(f"{other.root}: {count} results, {len(sizes)} files, {sum(sizes) / 1e6:.1f} MB; {published.note(other)}")
    print(f"Now tell git:\n  git add -A {other.root}\n  git commit")


def restore_results(options: argparse.Namespace) -> None:
    from reals.records import published

    registry = registry_of(options)
    copied, left = published.restore(registry)
    if not copied and not left:
        raise ValueError(f"{published.twin(registry).root} holds no result of what the sheets define now")
    print(f"{registry.root}: {copied} published results restored, {left} were here; snakemake makes the rest")


def publish_artefacts(options: argparse.Namespace) -> None:
    from reals.records import publish, store

    registry = registry_of(options)
    scales = publish.known_scales(options.sheets)
    scale, *changes = registry.experiment.overrides
    if changes:
        raise ValueError(f"--config {changes[0]}: DVC knows scales as their files say they are; publish without it")
    if (name := scale.removeprefix("scale=")) not in scales:
        raise ValueError(
            f"{options.sheets / publish.REGISTRY} holds {', '.join(scales)}; add this scale: `reals registry {' '.join([*scales, name])}`"
        )
    if publish.document(scales, options.sheets) != (options.sheets / publish.REGISTRY).read_text():
        raise ValueError(f"{options.sheets / publish.REGISTRY} is not what the sheets say; run `reals registry`, then publish")
    ready = []
    for item in publish.select(registry, options.names):
        whole = item.begun if item.stage in publish.PARTIAL else not item.missing
        if whole:
            if broken := publish.damaged(item.folder):
                raise ValueError(
                    f"{item.name}: damaged: {', '.join(map(str, broken))}; `reals verify {item.name} --remove`, then snakemake"
                )
            ready.append(item.name)
        if item.missing:
            print(f"{item.name}: {'without' if whole else 'left out, it lacks'} {', '.join(map(str, item.missing))}")
    if not ready:
        raise ValueError("nothing of this is finished; run snakemake first")
    if options.embed:
        store.tell_nothing_private(publish.select(registry, ready))
    publish.dvc("commit", "--force", *ready)
    if not options.no_push:
        try:
            if options.embed:
                publish.dvc("push", "--remote", store.NAME, *ready)
            else:
                store.refuse_as_default()
                publish.dvc("push", *ready)
        except ValueError as error:
            raise ValueError(
                f"recorded in dvc.lock but not pushed ({error}); when `reals check` finds the DVC remote well, the same command goes on"
            ) from None
    print(f"{len(ready)} recorded{'' if options.no_push else ' and pushed'}: {', '.join(ready)}")
    if options.embed:
        print(f"{store.FOLDER}: {store.tidy() / 1e6:.1f} MB")
    embedded = f" {store.FOLDER}" if options.embed else ""
    print(f"Now tell git:\n  git add -A dvc.lock {options.sheets / publish.REGISTRY}{embedded}\n  git commit")


def verify(options: argparse.Namespace) -> None:
    from reals import files
    from reals.records import publish

    registry = registry_of(options)
    whole = broken = 0
    for item in publish.select(registry, options.names):
        if not item.begun:
            continue
        bad = publish.damaged(item.folder)
        for path in bad:
            print(f"{item.name}: damaged or gone: {path}")
        whole, broken = whole + (not bad), broken + bool(bad)
        if bad and options.remove:
            # A state counts once its checksum stands beside it: both go.
            checksums = (path.with_suffix(".sha256") for path in bad)
            if remade := any(path.name != "spec.json" and path.parent.name != "made" for path in bad):
                (item.folder / files.MANIFEST).unlink(missing_ok=True)
            for path in (*bad, *(checksums if remade else ())):
                path.unlink(missing_ok=True)
    print(f"{whole} artefacts are whole, {broken} damaged")
    if broken and not options.remove:
        raise ValueError(
            "`reals verify --remove` deletes what is damaged; then `dvc pull` it again, or let snakemake remake just that"
        )
