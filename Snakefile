"""The grid as files: batches -> rows -> summary tables -> narrative notebooks.

    snakemake -n                                                                    the whole paper
    snakemake --workflow-profile params/workflow-profiles/local                     this machine; or gpu, or slurm
    snakemake --workflow-profile ... --config profile=embedded grid=smoke           one grid: its rows and its table

Rows are the outcome, and they live in the store. Snakemake sees a marker for each batch, which lists the ids of its
rows and is written once they are all there.
"""

import shlex
import sys
from collections import defaultdict

from oefsmc_lib.engine import batches, runs
from oefsmc_lib.errors import InputError
from oefsmc_lib.files import outputs_folder
from oefsmc_lib.notebook import session
from oefsmc_lib.parameters import grid
from oefsmc_lib.parameters.experiment import ALGORITHM_VERSION
from oefsmc_lib.rows.store import Store

OUTPUTS = outputs_folder().resolve()
if set("{}") & set(f"{OUTPUTS}{workflow.basedir}"):
    raise InputError(f"Snakemake reads braces as wildcards, but there are some in {OUTPUTS} or {workflow.basedir}; "
                     "name another folder with OEFSMC_OUTPUTS, or use `oefsmc grid run`.")
PROFILE, GRID = config.get("profile", "paper"), config.get("grid")
OEFSMC = shlex.join([sys.executable, "-m", "oefsmc_lib"])

GRIDS = grid.chosen(GRID, PROFILE)
BATCHES = {str(batch.marker.relative_to(OUTPUTS / "runs").with_suffix("")): batch for batch in batches.of_grids(GRIDS)}
MARKERS = defaultdict(list)                # experiment -> the marker of its batch, which may be another grid's
for batch in BATCHES.values():
    for experiment in batch.experiments:
        MARKERS[experiment.key] = str(batch.marker)

NAMED = {(each.profile.name, each.name): each for each in GRIDS}
TABLES = {names: f"{OUTPUTS}/tables/{names[0]}/{names[1]}.csv" for names in NAMED}
MEMBERS = sorted({profile for profile, _ in NAMED})
NOTEBOOKS = [path.stem for path in session.narrative()]

# Notebooks are a profile's; a single grid ends with its table.
FIGURES = [] if GRID else expand(f"{OUTPUTS}/executed/{{profile}}/{{notebook}}.done", profile=MEMBERS, notebook=NOTEBOOKS)

# A marker that outlived its rows would hide that they are gone.
if workflow.is_main_process:
    store = Store()
    for batch in BATCHES.values():
        if batch.marker.is_file() and batch.missing(store):
            batch.marker.unlink()


# As `oefsmc grid run` does: what can never be computed here is refused before the first batch.
onstart:
    for note in runs.check_missing(GRIDS, Store()):
        print(f"note: {note}", file=sys.stderr)


localrules: all, rows, tables, table


rule all:
    input: TABLES.values(), FIGURES


rule rows:
    input: [batch.marker for batch in BATCHES.values()]


rule tables:
    input: TABLES.values()


rule batch:
    output: f"{OUTPUTS}/runs/{{batch}}.rows"
    wildcard_constraints: batch="[^/]+/[^/]+"
    params:
        command=lambda wildcards: shlex.join(BATCHES[wildcards.batch].command),
        algorithm=ALGORITHM_VERSION,       # Snakemake sees no edit of the library: numbers may change with this one
    threads: 1
    resources: mem_mb=4000, runtime="12h"
    shell: "{params.command} --threads {threads} --marker {output:q}"


rule table:
    input: lambda wildcards: sorted({MARKERS[e.key] for e in NAMED[wildcards.profile, wildcards.grid].experiments})
    output: f"{OUTPUTS}/tables/{{profile}}/{{grid}}.csv"
    params: source=lambda wildcards: shlex.quote(NAMED[wildcards.profile, wildcards.grid].source)
    shell: "{OEFSMC} results table {output:q} --grid {params.source} --profile {wildcards.profile} --means"


rule notebook:
    input:
        lambda wildcards: [path for (profile, _), path in TABLES.items() if profile == wildcards.profile],
        f"{workflow.basedir}/notebooks/{{notebook}}.ipynb",
    output: touch(f"{OUTPUTS}/executed/{{profile}}/{{notebook}}.done")
    resources: mem_mb=4000, runtime="2h"
    shell: "{OEFSMC} figures --profile {wildcards.profile} --only {wildcards.notebook}"
