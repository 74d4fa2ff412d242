"""``oefsmc export``: a saved student as a file for a device."""

from pathlib import Path
from typing import Annotated

import typer


def export(
    folder: Annotated[Path, typer.Argument(help="a student's folder, as `oefsmc run ... --save FOLDER` writes it")],
    onnx: Annotated[Path, typer.Option(help="the file to write, FILE.onnx")],
    int8: Annotated[bool, typer.Option("--int8", help="integers of 8 bits: a quarter of the size, and faster")] = False,
    calibrate: Annotated[
        list[Path] | None,
        typer.Option(help="a folder of images for int8, labels unused; may be repeated; 1,000 images at most are read"),
    ] = None,
) -> None:
    """Write a student as an ONNX file that reads raw pixels, after onnxruntime has agreed with torch."""
    from oefsmc_lib.student import export as exports

    found = exports.export(folder, onnx, int8, calibrate or ())
    size = f"{found['bytes'] / 1e6:.2f} MB"
    if not int8:
        print(f"{onnx}: {size}; onnxruntime's logits are torch's")
        return
    if found["broken"]:
        print(f"note: {len(found['broken'])} file(s) cannot be read and are left out; {found['broken'][0]}")
    print(f"{onnx}: {size} instead of {found['float_bytes'] / 1e6:.2f} MB in float32")
    print(
        f"Of the {found['images']} images that it was calibrated on, {100 * found['agreement']:.1f} % keep the class "
        "that the float32 file gives them; check it on images of your own before you use it."
    )
