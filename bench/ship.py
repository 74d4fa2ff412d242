"""Shipping: accuracy, size and latency of teacher and student as ONNX files, in float32 and in int8.

    python bench/ship.py                 # accuracy and size: a line a file; resumes where it was stopped
    python bench/ship.py latency         # milliseconds of one image: teacher and pruned, float32 and int8
    python bench/ship.py development     # which quantisation: on training images that no stage saw, seeds from 100 up

CIFAR-10, VGG-16, 10 images, long-tailed and balanced, FSKD with the whole pool of OOD images. int8 is calibrated on the few
images, on them and the pool, and on the pool alone; no label is read for that. A finished file meets the test images once.
Latency is measured with onnxruntime on one thread, the four files in turn, as wall-clock time and as processor time of the
thread; the second is what counts on a machine that others use, too. Written to outputs/bench/<date>_<cpu or gpu>_<torch>_ship.csv
(ship-latency, ship-development). The newest file of a part is continued.
"""

import argparse
import csv
import hashlib
import io
import itertools
import os
import time
from datetime import date
from importlib.metadata import version

import torch
from sheet import ABOUT, device

from oefsmc_lib import pipeline
from oefsmc_lib.evidence import timings
from oefsmc_lib.files import outputs_folder, project_root, writable_folder, write_whole
from oefsmc_lib.parameters import grid
from oefsmc_lib.rows import provenance
from oefsmc_lib.rows.store import Store
from oefsmc_lib.student import evaluation, export, predictions
from oefsmc_lib.teacher.latency import quartiles

KEYS = ["seed", "imbalance", "network", "precision", "calibration"]
MEASURED = ["images", "top1", "balanced_accuracy", "head", "tail", "absent", "bytes"]
LATENCY_KEYS, LATENCY = ["network", "precision", "repeat"], ["bytes", "low_ms", "median_ms", "high_ms", "cpu_low_ms",
                                                            "cpu_median_ms", "cpu_high_ms", "load"]
STUDY = {"per channel, minima and maxima": {}, "per tensor": {"per_channel": False}, "7 bits": {"reduce_range": True},
         "entropy": {"calibrate_method": "Entropy"}, "percentile": {"calibrate_method": "Percentile"}}


class Sheet:
    """The newest CSV of a part, or today's: a line a key, written whole to the outputs after each."""

    def __init__(self, part: str, keys: list[str], measured: list[str]):
        self.keys, self.fields = keys, [*keys, *measured, *ABOUT, "onnxruntime"]
        kind, torch_version = "gpu" if device().type == "cuda" else "cpu", torch.__version__.split("+")[0]
        newest, today = timings.newest(part), f"{date.today()}_{kind}_{torch_version}_{part}.csv"
        self.path = outputs_folder() / "bench" / (newest.name if newest else today)
        self.about = {name: value for name, value in provenance.here(device()).items() if name in ABOUT}
        self.about["onnxruntime"] = version("onnxruntime")
        lines = list(csv.DictReader(io.StringIO(newest.read_text()))) if newest else []
        self.lines = {tuple(line[key] for key in keys): line for line in lines}

    def has(self, *key) -> bool:
        return tuple(map(str, key)) in self.lines

    def add(self, line: dict) -> None:
        self.lines[tuple(str(line[key]) for key in self.keys)] = line | self.about
        text = io.StringIO()
        writer = csv.DictWriter(text, self.fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.lines.values())
        write_whole(self.path, text.getvalue())
        print(time.strftime("%H:%M:%S"), "  ".join(f"{name}={value}" for name, value in line.items()), flush=True)


def kept():
    """Where float32 files are kept between calls: a student takes a minute to make."""
    return writable_folder(outputs_folder() / "ship")


class Draw:
    """Images of a draw, and the float32 files of its teacher and its student; no test image is looked at."""

    def __init__(self, shared, seed: int, imbalance: str):
        self.experiment = grid.load_profile("cifar10").experiment(
            {"method": "fskd", "variant": "whole_pool", "num": 10, "seed": seed, "imbalance": imbalance})
        self.shared, self.ready = shared, pipeline.prepare(self.experiment, shared)
        self.paths = {"teacher": kept() / "teacher.onnx", "pruned": kept() / f"pruned-{imbalance}-{seed}.onnx"}
        self.models = {}

    def file(self, network: str) -> bytes:
        """The float32 file, made where it is not kept."""
        teacher = self.ready.teacher
        if not self.paths[network].is_file():
            about = {key: teacher.card[key] for key in ("mean", "std")} | {"classes": list(self.ready.train.class_names)}
            self.models[network] = teacher.model if network == "teacher" else self.student()
            write_whole(self.paths[network], export.to_onnx(self.models[network], teacher.architecture, about))
        return self.paths[network].read_bytes()

    def student(self):
        student, _ = pipeline.recover(self.experiment, self.ready, self.shared)
        pipeline.tune(self.experiment, self.ready, student)
        return student.model

    def calibration(self, name: str) -> torch.Tensor:
        few, pool = self.ready.train.take(self.ready.draw.indices), self.ready.pool.images
        return {"few": few, "few + OOD": torch.cat([few, pool]), "OOD": pool}[name]

    def known(self) -> dict | None:
        """What the committed row of this very student says, if there is one: test images are not asked again."""
        rows = [row for row in Store(project_root() / "outputs" / "results").rows({self.experiment.key})
                if row.few_indices == self.ready.draw.indices and row.torch == torch.__version__]
        return vars(rows[0]) if rows else None

    def guesses(self, network: str, content: bytes) -> torch.Tensor:
        """The classes of all test images, once. Where torch has the network it answers for the float32 file, which
        `to_onnx` has compared with it, because it is quicker."""
        if content == self.file(network) and network in self.models:
            return predictions.predicted(self.models[network], self.ready.test, self.ready.teacher.normalise, "cpu")
        return export.classify(content, self.ready.test.images).argmax(1)


# --- accuracy and size ---------------------------------------------------------------------------
def accuracy(seeds: list[int], kinds: list[str]) -> None:
    sheet, shared, seen = Sheet("ship", KEYS, MEASURED), pipeline.Shared(), {}
    cases = [[("float32", ""), ("int8", "few + OOD")], [("int8", "few"), ("int8", "OOD")]]
    for imbalance, part, seed in itertools.product(kinds, cases, seeds):        # what matters most of all seeds comes first
        todo = [(network, *case) for case in part for network in ("pruned", "teacher")
                if not sheet.has(seed, imbalance, network, *case)]
        draw = Draw(shared, seed, imbalance) if todo else None
        for network, precision, calibration in todo:
            content, images = draw.file(network), draw.calibration(calibration) if calibration else []
            if precision == "int8":
                content = export.to_int8(content, images)
            scores = draw.known() if (network, precision) == ("pruned", "float32") else None
            if scores is None:
                mark = hashlib.sha256(content).hexdigest()   # the teacher's file is the same for every draw
                if mark not in seen:
                    seen[mark] = draw.guesses(network, content)
                scores = evaluation.scores(seen[mark], draw.ready.test.labels, draw.ready.draw.counts)
            measured = {"top1": scores["top1"], "balanced_accuracy": scores["balanced_accuracy"],
                        **{group: scores[f"{group}_accuracy"] for group in ("head", "tail", "absent")}}
            sheet.add({"seed": seed, "imbalance": imbalance, "network": network, "precision": precision,
                       "calibration": calibration, "images": len(images),
                       **{name: None if value is None else round(value, 3) for name, value in measured.items()},
                       "bytes": len(content)})


# --- latency -------------------------------------------------------------------------------------
def latency(repeats: int, rounds: int = 100) -> None:
    sheet = Sheet("ship-latency", LATENCY_KEYS, LATENCY)
    draw, contents = Draw(pipeline.Shared(), 0, "long_tail"), {}
    for network in ("teacher", "pruned"):
        contents[f"{network}-float32"] = draw.file(network)
        contents[f"{network}-int8"] = export.to_int8(draw.file(network), draw.calibration("few"))
    pixels = torch.randint(0, 256, (1, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8).numpy()
    works = {name: lambda runs=export.session(content): runs.run(None, {"images": pixels})
             for name, content in contents.items()}
    for repeat in range(repeats):
        load = round(os.getloadavg()[0], 2)
        wall, own = (dict(zip(works, quartiles([*works.values()], clock, rounds, rounds).tolist()))
                     for clock in (time.perf_counter, time.thread_time))
        for name, content in contents.items():
            network, precision = name.split("-")
            columns = dict(zip(LATENCY[1:7], [round(value, 4) for value in wall[name] + own[name]]))
            sheet.add({"network": network, "precision": precision, "repeat": repeat, "bytes": len(content), **columns, "load": load})


# --- which quantisation --------------------------------------------------------------------------
def development(seeds: list[int], networks: list[str]) -> None:
    """int8 against its own float32 file on 500 training images that no stage saw."""
    from development import held_back
    from onnxruntime.quantization import CalibrationMethod
    if min(seeds) < 100:
        raise SystemExit("Development draws have seeds from 100 up; the tables use those below.")
    sheet = Sheet("ship-development", ["seed", "network", "calibration", "setting"], ["accuracy", "agreement", "divergence", "bytes"])
    for seed in seeds:
        draw = Draw(pipeline.Shared(), seed, "long_tail")
        held = held_back(draw.ready)[:500]
        pixels, labels = draw.ready.train.take(held), draw.ready.train.labels[held]
        float32 = {network: export.classify(draw.file(network), pixels) for network in networks}
        for network, (setting, options), calibration in itertools.product(networks, STUDY.items(), ("few + OOD", "few", "OOD")):
            if sheet.has(seed, network, calibration, setting):
                continue
            options = {k: CalibrationMethod[v] if k == "calibrate_method" else v for k, v in options.items()}
            content = export.to_int8(draw.file(network), draw.calibration(calibration), **options)
            exact, logits = float32[network], export.classify(content, pixels)
            divergence = torch.nn.functional.kl_div(logits.log_softmax(1), exact.log_softmax(1), log_target=True, reduction="batchmean")
            sheet.add({"seed": seed, "network": network, "calibration": calibration, "setting": setting,
                       "accuracy": round(100 * float((logits.argmax(1) == labels).double().mean()), 2),
                       "agreement": round(100 * float((logits.argmax(1) == exact.argmax(1)).double().mean()), 2),
                       "divergence": round(float(divergence), 5), "bytes": len(content)})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", choices=["accuracy", "latency", "development"], default="accuracy")
    parser.add_argument("--seeds", nargs="+", type=int, help="left out: 0 to 4, or 100 and 101 in development")
    parser.add_argument("--imbalance", nargs="+", default=["long_tail", "balanced"])
    parser.add_argument("--networks", nargs="+", default=["pruned", "teacher"], help="of development")
    parser.add_argument("--repeats", type=int, default=5, help="of latency")
    chosen = parser.parse_args()
    if chosen.part == "accuracy":
        accuracy(chosen.seeds or list(range(5)), chosen.imbalance)
    elif chosen.part == "latency":
        latency(chosen.repeats)
    else:
        development(chosen.seeds or [100, 101], chosen.networks)


if __name__ == "__main__":
    main()
