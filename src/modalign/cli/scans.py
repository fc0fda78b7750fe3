"""One pair of scans, the way back to the original scans, and which methods there are."""

from pathlib import Path
from typing import Annotated

import typer

from modalign.align_files import align_pair, parse_json
from modalign.api import DEFAULT_METHOD
from modalign.cli.app import Device, Json, Seed, app
from modalign.cli.specs import read_needs


@app.command()
def align(
    fixed: Annotated[Path, typer.Argument(help="The scan that stays as it is (NIfTI, NRRD or MetaImage).")],
    moving: Annotated[Path, typer.Argument(help="The scan to bring onto it.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for image.nii.gz, field.nii.gz and run.json.")],
    method: Annotated[str, typer.Option(help="One of `modalign methods`.")] = DEFAULT_METHOD,
    preset: Annotated[str | None, typer.Option(help="Preset of the method; short for --options.")] = None,
    dimension: Annotated[int | None, typer.Option(help="2: slice by slice; 3: as a volume.")] = None,
    options: Json = "{}",
    needs: Json = "{}",
    mask_fixed: Annotated[
        Path | None, typer.Option(help="Mask on the fixed grid; nonzero counts. Sets use_masks.")
    ] = None,
    mask_moving: Annotated[
        Path | None, typer.Option(help="Mask on the moving grid; nonzero counts. Sets use_masks.")
    ] = None,
    inverse: Annotated[bool, typer.Option("--inverse", help="Write inverse_field.nii.gz, on the moving grid.")] = False,
    model: Annotated[Path | None, typer.Option(help="Folder of trained weights.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; by default OMP_NUM_THREADS, or one for each core.")
    ] = None,
) -> None:
    """Align one pair of scans with any method, by default with Locor, on all cores."""
    chosen = {} if preset is None else {"preset": preset}
    align_pair(
        fixed,
        moving,
        out,
        method=method,
        dimension=dimension,
        options=chosen | parse_json(options, "--options", dict),
        needs=read_needs(needs),
        fixed_mask=mask_fixed,
        moving_mask=mask_moving,
        inverse=inverse,
        model=model,
        seed=seed,
        device=device,
        threads=threads,
    )


@app.command()
def restore(
    case: Annotated[Path, typer.Argument(help="Folder of a prepared case, such as results/cases/<data set>/<case>.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for image.nii.gz and field.nii.gz.")],
    image: Annotated[Path | None, typer.Option(help="Aligned image of the case.")] = None,
    field: Annotated[Path | None, typer.Option(help="Displacement field of the alignment.")] = None,
) -> None:
    """Bring an alignment of a prepared case back to the original scan's grid, in HU or the original units."""
    from modalign.preprocess.undo import restore_files

    restore_files(case, out, image, field)


@app.command()
def methods() -> None:
    """List the methods with their options and defaults."""
    from modalign.methods import method_class, method_names

    for name in method_names():
        method = method_class(name)
        learns = "trained" if method.is_trained() else "no training"
        dimensions = " and ".join(f"{d}D" for d in sorted(method.dimensions))
        typer.echo(f"{name}: {method.label} ({method.kind}, {dimensions}, {learns}). {method.source}")
        for option, field in method.Options.model_fields.items():
            typer.echo(f"    {option} = {field.default!r}: {field.description}")
