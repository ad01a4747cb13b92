"""`ram-backend bundles`: base models on disk."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ram_backend.cli.output import AsJson, JsonLines, notes, out, print_json, print_rows
from ram_backend.models.bundle import Bundle, verify
from ram_backend.models.registry import find_bundle, list_bundles
from ram_backend.settings import load_settings

app = typer.Typer(help="Base models: import, download, list, show.", no_args_is_help=True)


Model = StrEnum(
    "Model",
    {"ram_plus": "ram-plus", "ram": "ram", "tag2text": "tag2text", "grounding_dino": "grounding-dino", "sam": "sam"},
)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="Weights of RAM, RAM++ or Tag2Text (.pth).")],
    tags: Annotated[Path, typer.Option(help="The tag list that belongs to them, one tag a line.")],
    name: Annotated[str, typer.Option(help="Name of the new bundle.")],
    thresholds: Annotated[
        Path | None, typer.Option(help="One threshold a line (default: the authors' flat ones).")
    ] = None,
    allow_extra: Annotated[
        bool, typer.Option("--allow-extra", help="Leave out unknown keys instead of refusing the file.")
    ] = False,
    descriptions: Annotated[
        int | None, typer.Option(min=1, help="RAM++: label embeddings per tag (default: 51).")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Side of the images of its training (default: 384).")
    ] = None,
) -> None:
    """Make a bundle of an official weight file.

    Which of the three models it is, is seen from its keys. The file is read
    without running any code in it, and refused where a key is missing,
    malformed or unknown. The captioner's weights are kept; the optimizer's
    state is not.
    """
    from ram_backend.models.importing import import_checkpoint

    with notes.status("Starting") as status:
        bundle = import_checkpoint(
            file,
            tags,
            thresholds=thresholds,
            name=name,
            bundles_dir=load_settings().bundles_dir,
            allow_extra=allow_extra,
            descriptions=descriptions,
            image_size=image_size,
            progress=status.update,
        )
    _announce(bundle)


@app.command()
def pull(
    model: Annotated[Model, typer.Argument(help="Which released model.")],
    name: Annotated[str | None, typer.Option(help="Name of the new bundle (default: the model's).")] = None,
    repository: Annotated[
        str | None, typer.Option(help="Another repository of the hub: OWNER/NAME or spaces/OWNER/NAME.")
    ] = None,
    filename: Annotated[str | None, typer.Option(help="Another file in that repository.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit (default: main).")] = None,
) -> None:
    """Download a released model (1.3 to 5.6 GB) and make a bundle of it; a download that stopped resumes.

    HF_ENDPOINT is the address of a mirror of the hub. A file with other tags is
    for `bundles import`.

    grounding-dino and sam (0.4 to 1 GB) are not bundles: `tag --regions` uses
    them.
    """
    from ram_backend.models.hub import RELEASES, Released
    from ram_backend.models.hub import pull as pull_release
    from ram_backend.regions.weights import Kind

    settings = load_settings()
    kind: Released | Kind = model.value
    if kind == "grounding-dino" or kind == "sam":  # noqa: PLR1714, mypy narrows the type by `==` only
        from ram_backend.regions.weights import pull as pull_detector

        folder = pull_detector(kind, settings.data_dir, repository=repository, revision=revision, endpoint=None)
        out.print(f"{kind} is in {folder}", markup=False)
        return
    named = {"repository": repository, "filename": filename, "revision": revision}
    release = replace(RELEASES[kind], **{key: value for key, value in named.items() if value is not None})
    bundle = pull_release(
        kind,
        bundles_dir=settings.bundles_dir,
        cache_dir=settings.cache_dir,
        name=name,
        release=release,
        progress=lambda text: notes.print(f"{text} ...", markup=False),
    )
    _announce(bundle)


@app.command("list")
def list_(as_json: JsonLines = False) -> None:
    """List the bundles of the data folder."""
    entries = list_bundles(load_settings().bundles_dir)
    if as_json:
        print_json(*({**vars(each), "path": str(each.path)} for each in entries))
        return
    rows = [(each.name, each.problem or each.summary, str(each.path) if each.installed else "") for each in entries]
    print_rows(("bundle", "what it is", "where"), rows)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of a bundle.")],
    check: Annotated[bool, typer.Option("--verify", help="Read all files and compare their checksums.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a bundle is, where it came from, and its first tags."""
    bundle = find_bundle(name, load_settings().bundles_dir)
    if check:
        verify(bundle)
    if as_json:
        print_json(bundle.manifest, indent=1)
        return
    print_rows((), _facts(bundle).items())
    if check:
        typer.echo("All checksums are right.")


@app.command()
def use(
    name: Annotated[str, typer.Argument(help="Name of a bundle.")],
    project: Annotated[str, typer.Option(help="Which project: its number, or NUMBER.CREATED.")],
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it is done, and print its result.")] = False,
) -> None:
    """Learn a project's corrections anew on another bundle, and serve that if it needs fewer edits.

    A worker does it. The gate compares with what is served, which stays until
    then; where it refuses, nothing changes. The way back is the same, or
    `versions rollback`.
    """
    from ram_backend.cli.jobs import request_training
    from ram_backend.cli.opening import open_project

    settings = load_settings()
    find_bundle(name, settings.bundles_dir)
    request_training(open_project(project), f"to use bundle {name}", wait=wait, bundle=name)


def _facts(bundle: Bundle) -> dict[str, str]:
    manifest = bundle.manifest
    provenance = manifest.get("provenance", {})
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    facts = {
        "name": bundle.name,
        "kind": bundle.kind,
        "path": str(bundle.path),
        "size": f"{size / 1e6:,.0f} MB",
        "digest": bundle.digest,
        "tags": f"{len(bundle.vocabulary):,}: {', '.join(bundle.vocabulary.names[:6])}, ...",
        "new tags": f"with {bundle.text_encoder}" if bundle.text_encoder else "no: learned without a text encoder",
        "preprocessing": bundle.preprocessing.id,
        "caption weights": f"no: {bundle.lacks_captioner}" if bundle.lacks_captioner else "yes",
        "licence": str(manifest.get("licence", "not given")),
    }
    for role, entry in provenance.get("sources", {}).items():
        if "file" in entry:
            facts[f"from ({role})"] = f"{entry['file']}, sha256 {str(entry.get('sha256', '?'))[:16]}"
    if provenance.get("made"):
        facts["made"] = str(provenance["made"])
    return facts


def _announce(bundle: Bundle) -> None:
    typer.echo(f"Bundle {bundle.name} ({bundle.kind}, {len(bundle.vocabulary):,} tags) is ready at {bundle.path}.")
    typer.echo(f"Next: ram-backend tag PHOTO --bundle {bundle.name}")
