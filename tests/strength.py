"""How much the tests notice: mutation testing of the equations, and which lines and branches of the library they reach.

    python tests/strength.py mutants ['oefsmc_lib.images.fewshot*' ...]        # make mutants, of all or of some functions
    python tests/strength.py coverage                                          # make coverage, after a run of the tests

mutmut changes the files that ``[tool.mutmut.tests_of]`` of pyproject.toml names, one small step at a time. Of the tests
beside a file those run that reach the changed function. A mutant that none of them notices survives. What is known is kept
in ``mutants/``, and only functions that changed since and survivors are tried again. Written to
outputs/bench/<date>_cpu_<torch>_mutants.csv, ..._survivors.csv, ..._coverage.csv and ..._unreached.csv. Where only some
files were tried, the lines of the others are taken over from the newest such file, with the commit that they were tried at.
"""

import csv
import json
import subprocess
import sys
import tomllib
from collections import Counter
from datetime import date
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KILLED = ("killed", "timeout")  # a test that does not end in time has noticed, too
HARMLESS = {"torch.no_grad()"}


def write(part: str, lines: list[dict], tried: set[str] | None = None) -> None:
    """The lines of a part and the versions that they were measured with; with ``tried``, the files that these lines are of,
    the older lines of other files stay."""
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    about = {"python": sys.version.split()[0], "torch": version("torch"), "git_commit": commit}
    path = ROOT / "outputs" / "bench" / f"{date.today()}_cpu_{version('torch').split('+')[0]}_{part}.csv"
    made = [{name: str(value) for name, value in (line | about).items()} for line in lines]
    if tried is not None and (older := sorted(path.parent.glob(f"*_{part}.csv"))):
        with open(older[-1], newline="") as file:
            made += [line for line in csv.DictReader(file) if line["file"] not in tried]
        made.sort(key=lambda line: line["file"])
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(made[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(made)
    print(f"Written to {path}")


def change_what_needs_no_gradient() -> None:
    """mutmut passes over functions with a decorator, since a copy may do something; a copy under this one does nothing."""
    import libcst
    from mutmut.mutation.file_mutation import MutationVisitor
    passes_over = MutationVisitor._skip_node_and_children

    def passes(visitor, node):
        if isinstance(node, libcst.FunctionDef) and node.decorators:
            if {libcst.Module([]).code_for_node(each.decorator) for each in node.decorators} <= HARMLESS:
                return False
        return passes_over(visitor, node)
    MutationVisitor._skip_node_and_children = passes


def set_up() -> None:
    """Which files are changed, and for each of their functions the tests that run: those of [tool.mutmut.tests_of]."""
    from mutmut import __main__ as mutmut
    from mutmut.state import state
    tests_of = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutmut"]["tests_of"]
    asked, collect = mutmut.config(), mutmut.collect_or_load_stats
    asked.only_mutate = list(tests_of)
    asked.pytest_add_cli_args_test_selection = sorted(set().union(*tests_of.values()))

    def collect_those_beside(*given, **named):
        collect(*given, **named)
        for function, tests in state().tests_by_mangled_function_name.items():
            beside = tests_of[f"{function.rpartition('.')[0].replace('.', '/')}.py"]
            tests -= {test for test in tests if test.partition("::")[0] not in beside}
    mutmut.collect_or_load_stats = collect_those_beside
    change_what_needs_no_gradient()


def forget_survivors() -> None:
    """They are tried again, as if they were new; so are those that took too long, which a busy machine does, too."""
    for path in (ROOT / "mutants").rglob("*.meta"):
        known = json.loads(path.read_text())
        codes = known["exit_code_by_key"]
        known["exit_code_by_key"] = {name: code if status(code) == "killed" else None for name, code in codes.items()}
        path.write_text(json.dumps(known, indent=4))


def status(code: int | None) -> str:
    from mutmut.stats import status_by_exit_code
    return status_by_exit_code[code]


def mutants() -> None:
    """What became of every mutant that is known; survivors with the lines that they take away and put there."""
    from mutmut import __main__ as mutmut
    files, survivors = [], []
    for path in sorted(mutmut.walk_mutatable_files()):
        found = mutmut.SourceFileMutationData(path=path)
        found.load()
        said = {name: status(code) for name, code in found.exit_code_by_key.items()}
        count = Counter(said.values())
        tried, killed = len(said) - count["not checked"], sum(count[name] for name in KILLED)
        if not tried:
            continue
        files.append({"file": path, "mutants": len(said), "tried": tried, "killed": killed, "timeouts": count["timeout"],
                      "killed_percent": f"{100 * killed / tried:.1f}", "mutmut": version("mutmut")})
        print(*files[-1].values())
        for name in (name for name, said_of in said.items() if said_of not in (*KILLED, "not checked")):
            lines = mutmut.get_diff_for_mutant(name, path=path).splitlines()[2:]
            before, after = (" ".join(line[1:].strip() for line in lines if line.startswith(sign)) for sign in "-+")
            function = name.rpartition(".")[2].split("__mutmut")[0].removeprefix("x_").removeprefix("xǁ").replace("ǁ", ".")
            survivors.append({"file": path, "function": function, "status": said[name], "before": before, "after": after})
    tried = {str(line["file"]) for line in files}
    write("mutants", files, tried)
    if survivors:
        write("survivors", survivors, tried)


def coverage() -> None:
    """Statements and branches of every room that the tests reach, from what ``coverage run`` left, and the lines that
    they do not."""
    for step in ("combine -q", "json -q -o -"):
        done = subprocess.run([sys.executable, "-m", "coverage", *step.split()], cwd=ROOT, capture_output=True, text=True)
    rooms, unreached = {}, []
    for name, file in json.loads(done.stdout)["files"].items():
        inside, said = Path(name).relative_to("oefsmc_lib"), file["summary"]
        room = inside.parts[0] if len(inside.parts) > 1 else "files beside the rooms"
        rooms.setdefault(room, Counter()).update({key: said[key] for key in (
            "num_statements", "covered_lines", "num_branches", "covered_branches")})
        unreached += [{"file": name, "lines": " ".join(map(str, file["missing_lines"])),
                       "branches": " ".join(f"{a}->{b}" for a, b in file["missing_branches"])}] * bool(
                           file["missing_lines"] or file["missing_branches"])
    rooms = dict(sorted(rooms.items())) | {"all": sum(rooms.values(), Counter())}
    for room, count in rooms.items():
        reached = count["covered_lines"] + count["covered_branches"]
        count["percent"] = f"{100 * reached / (count['num_statements'] + count['num_branches']):.1f}"
        print(room, *count.values())
    write("coverage", [{"room": room} | dict(count) | {"coverage": version("coverage")} for room, count in rooms.items()])
    write("unreached", unreached)


if __name__ == "__main__":
    part, *names = sys.argv[1:]
    if part == "coverage":
        coverage()
    else:
        set_up()
        if part == "mutants":
            forget_survivors()
            from mutmut.__main__ import _run
            _run(names, 1)
        mutants()
