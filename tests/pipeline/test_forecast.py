"""Plans: a run foretold from its own rates is that run; sizes scale; clusters bound; what is not known is told."""

from __future__ import annotations

import json
import re
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import msgspec
import orjson
import pytest
from ledgers import entries
from token_run import write_run
from told import as_json

from pipeline.carry_out import Options, run_recipe
from pipeline.cli import main
from pipeline.engine import execute
from pipeline.forecast import plan as foretelling
from pipeline.forecast import stages
from pipeline.forecast.calibrate import calibrate
from pipeline.forecast.cluster import SHARED, Cluster, other_costs, phases
from pipeline.forecast.inputs import list_sources
from pipeline.forecast.rates import Rates, Work, read_rates
from pipeline.forecast.stages import Forecast, Stage
from pipeline.forecast.starts import told_apart
from pipeline.jobs.documents import DocumentsReport
from pipeline.ledger import Entry, Ref
from pipeline.progress import Progress
from pipeline.recipe.recipe import Recipe, build_recipe
from stages.books import Amount, StepBooks
from stages.errors import UserError
from stages.tokens.shard_format import load_manifest

ROOT = Path(__file__).resolve().parents[2]
WORDS = [word for _, text in sorted(topics.items()) for word in text.split()]
HERE = Cluster(1, 2, 8 << 30)


def plan(recipe: Recipe, rates: Rates, cluster: Cluster, offline: bool = False) -> dict[str, Any]:
    """What is foretold, as `plan --json` prints it."""
    return as_json(foretelling.plan(recipe, rates, cluster, offline))


def text_of(number: int) -> str:
    return f"Document {number} is about the of and to have with that be. " + " ".join(
        WORDS[number * 97 : number * 97 + 300]
    )


def recipe_data(folder: Path) -> dict[str, Any]:
    gopher = {"gopher_quality": {"words": {"min": 100}, "symbol_ratio": None, "non_alphabetic_words": None}}
    return {
        "name": "small",
        "sources": {
            "web": {
                "read": {"paths": [f"{folder}/web-*.jsonl"]},
                "steps": [gopher, {"dedup": {"method": "minhash"}}, {"remove_urls": {"urls": "all"}}],
            },
            "wiki": {"read": {"paths": [f"{folder}/wiki.jsonl"]}, "steps": [{"dedup": {"method": "exact"}}]},
        },
        "tokenizer": {"train": {"vocab_size": 600, "max_bytes": "100KB"}},
        "shards": {"bytes": "100KB", "held_out": 0.05},
        "mixture": {"epochs": 1.5},
        "run": {"split_bytes": "120KB"},
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    folder = tmp_path_factory.mktemp("plan")
    for name, numbers in {"web-0": range(60), "web-1": range(40, 100), "wiki": range(100, 180)}.items():
        rows = [{"id": f"{name}-{i}", "text": text_of(i) if i % 9 else "short"} for i in numbers]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = build_recipe(recipe_data(folder))
    execute._begun.clear()  # as in a fresh process, whatever tests ran before in this one
    run_recipe(recipe, Options(str(folder / "run"), inline=True, progress=Progress(quiet=True)))
    return recipe, folder / "run"


@pytest.fixture(scope="module")
def rates(made: tuple[Recipe, Path]) -> Rates:
    return read_rates(str(made[1]))


def near(value: float, share: float = 0.02) -> Any:
    return pytest.approx(value, rel=share, abs=2)


def test_a_run_foretold_from_its_own_rates_is_that_run(made: tuple[Recipe, Path], rates: Rates) -> None:
    recipe, run = made
    manifest, done = load_manifest(run), entries(run)
    found = plan(recipe, rates, HERE)
    assert found["problems"] == []
    for name, source in found["sources"].items():
        entry = manifest["sources"][name]
        held = entry["held_out"]
        assert source["documents_kept"] == near(entry["documents"] + held["documents"])
        assert source["bytes_kept"] == near(entry["text_bytes"] + held["text_bytes"])
        assert source["tokens"] == near(entry["tokens"] + held["tokens"])
        assert source["budget_tokens"] == near(entry["budget_tokens"], 0.1)  # the held-out share is a matter of chance
        assert source["kept_origin"] == source["bytes_per_token_origin"] == "measured"
    assert found["sources"]["web"]["documents"] == 120 and found["sources"]["wiki"]["documents"] == 80
    taken = sum(entry.cpu_seconds for entry in done)
    alone = plan(recipe, rates, Cluster(1, 1, 8 << 30))  # one process began every stage, as in this run
    assert alone["total"]["core_hours"] * 3600 == pytest.approx(taken, rel=0.2)
    stages = {(stage["phase"], stage["source"]): stage for stage in found["stages"]}
    tasks = [entry for entry in done if str(entry.ref).startswith("documents/web/0/")]
    assert stages["read and filter", "web"]["tasks"] == len(tasks) == 2
    assert stages["read and filter", "web"]["memory"] == max(entry.peak_memory for entry in tasks)
    assert {name for name, _ in stages} >= {"dedup 1: scatter", "after dedup 1", "tokenizer", "tokenize", "shard"}
    assert [step["step"] for step in stages["read and filter", "web"]["steps"]] == ["gopher_quality"]
    for phase, kind in (("tokenizer", "tokenizer"), ("held-out n-grams", "held out"), ("plan shards", "plan shards")):
        peak = max(entry.peak_memory for entry in done if entry.ref.kind == kind)
        assert max(stage["memory"] for stage in found["stages"] if stage["phase"] == phase) == near(peak)
    scratch = {phase["name"]: phase["scratch"] for phase in found["phases"]}
    for (phase, _), stage in stages.items():
        stated = phase.startswith("dedup") or phase == "shard"
        assert (stage["scratch"] > 0) == stated, phase
        assert not stated or scratch[phase] >= stage["scratch"] * min(2, stage["tasks"])  # of two tasks at once
    part = found["sources"]["web"]["bytes_kept"] // 2
    assert stages["dedup 1: scatter", "web"]["scratch"] > stages["dedup 1: remove", "web"]["scratch"] > part
    most = max(entry.peak_memory for entry in done)
    assert found["total"]["memory"] == pytest.approx(max(most, 414e6), rel=0.02)  # dedups state that; this process may take more
    written = sum(o.bytes for e in done if e.ref.kind == "shard" for o in e.outputs)
    assert sum(s["written"] for s in found["stages"] if s["phase"] == "shard") == near(written)


def test_what_is_expected_stands_for_files_that_cannot_be_listed(made: tuple[Recipe, Path], rates: Rates) -> None:
    data = recipe_data(made[1].parent)
    base = plan(made[0], rates, HERE)
    for source in data["sources"].values():
        source["read"]["paths"] = ["/nowhere/*.jsonl"]
    with pytest.raises(UserError, match=r"web: its files cannot be listed .*set expected\.sources\.web"):
        plan(build_recipe(data), rates, HERE)
    grown = {
        name: {"documents": source["documents"] * 1000, "text_bytes": source["text_bytes"] * 1000}
        for name, source in base["sources"].items()
    }
    data["expected"] = {"documents": 1, "text_bytes": 1, "sources": grown}
    data["tokenizer"]["train"]["max_bytes"] = "100MB"
    found = plan(build_recipe(data), rates, HERE, offline=True)
    core = [{s["phase"]: 0.0 for s in told["stages"]} for told in (base, found)]
    for seconds, told in zip(core, (base, found), strict=True):
        for stage in told["stages"]:
            seconds[stage["phase"]] += stage["core_seconds"]
    assert core[1].pop("tokenizer") == pytest.approx(core[0].pop("tokenizer") * 1000**0.75, rel=0.02)
    assert sum(core[1].values()) == pytest.approx(sum(core[0].values()) * 1000, rel=0.02)
    assert found["total"]["tokens"] == near(base["total"]["tokens"] * 1000)
    assert found["sources"]["web"]["origin"].startswith("what the recipe expects, for the files cannot be listed")
    web = next(stage for stage in found["stages"] if stage["phase"] == "read and filter" and stage["source"] == "web")
    assert web["tasks"] == -(-web["read"] // 120_000) > 500
    data["expected"]["sources"]["web"] |= {"tokens": 7_000_000, "kept": 0.5, "file_bytes": 120_000 * 40}
    missing = plan(build_recipe(data), rates, Cluster(1, 2, 64 << 30))
    told = [problem.partition(": ")[0] for problem in missing["problems"]]
    assert told == ["sources.web.read.paths", "sources.wiki.read.paths"]
    told = missing["sources"]["web"]
    assert told["file_bytes"] == 120_000 * 40 and "as compact as measured" not in told["origin"]
    assert "as compact as measured" in missing["sources"]["wiki"]["origin"]
    assert told["tokens"] == near(3_500_000) and told["bytes_kept"] == near(told["text_bytes"] / 2)
    assert told["kept_origin"] == told["bytes_per_token_origin"] == "the recipe (expected.sources)"


def test_a_file_that_cannot_be_cut_is_one_task_as_long_as_it_is(rates: Rates, tmp_path: Path) -> None:
    data = recipe_data(tmp_path)
    for name, size in {"web-0": 9_000_000, "web-1": 500_000, "web-2": 500_000}.items():
        with (tmp_path / f"{name}.jsonl.bz2").open("wb") as file:
            file.truncate(size)
    data["sources"] = {"web": {"read": {"paths": [f"{tmp_path}/web-*.jsonl.bz2"]}, "steps": ["remove_urls"]}}
    data["mixture"]["epochs"] = 1
    begun = Rates(rates.origin, {key: work for key, work in rates.work.items() if key[0] != "start"})
    found = plan(build_recipe(data), begun, Cluster(100, 8, 64 << 30))
    for phase in found["phases"]:
        if phase["name"] in ("read and filter", "tokenize", "near copies"):
            assert phase["tasks"] == 3 and phase["bound"] == "few tasks"
            assert phase["seconds"] == pytest.approx(0.9 * phase["core_seconds"], rel=0.01)
    assert {"read and filter", "tokenize"} <= {phase["name"] for phase in found["phases"]}


def test_of_a_compressed_file_what_stands_before_parts_is_decompressed_again(rates: Rates, tmp_path: Path) -> None:
    """A file of eight parts is looked through once, and three and a half times more by the tasks that read its parts."""
    data = recipe_data(tmp_path)
    with (tmp_path / "web-0.jsonl.zst").open("wb") as file:
        file.truncate(8_000_000)
    data["sources"] = {"web": {"read": {"paths": [f"{tmp_path}/web-*.jsonl.zst"]}, "steps": ["remove_urls"]}}
    data["mixture"]["epochs"] = 1
    seconds = []
    for looked in (0.0, 2.0):
        rates.work["cut", "web", ""] = Work(looked, 1, bytes_in=4_000_000)
        found = {phase["name"]: phase for phase in plan(build_recipe(data), rates, Cluster(100, 8, 64 << 30))["phases"]}
        assert found["read and filter"]["tasks"] == 8
        seconds.append([found[name]["core_seconds"] for name in ("find where to cut", "read and filter")])
    del rates.work["cut", "web", ""]
    assert [many - none for none, many in zip(*seconds, strict=True)] == pytest.approx([4.0, 14.0])


def test_a_mixture_that_cannot_be_had_is_a_problem(made: tuple[Recipe, Path], rates: Rates) -> None:
    data = recipe_data(made[1].parent) | {"mixture": {"tokens": 10**9}}
    found = plan(build_recipe(data), rates, HERE)
    assert "the mixture asks for more than there is" in found["problems"][0]
    assert found["sources"]["web"]["budget_tokens"] is None and found["total"]["core_hours"] > 0


def test_letting_go_of_parts_needs_less_disk(made: tuple[Recipe, Path], rates: Rates) -> None:
    data = recipe_data(made[1].parent)
    kept = plan(build_recipe(data), rates, HERE)["total"]["disk"]
    data["run"]["keep"] = "none"
    assert plan(build_recipe(data), rates, HERE)["total"]["disk"] < 0.9 * kept


def one_phase(cluster: Cluster, **facts: Any) -> Any:
    stage = Stage("work", "web", **{"tasks": 1000, "memory": 1 << 30, "core_seconds": 36_000.0, **facts})
    found, problems = phases(Forecast([stage], {}, 0, [], []), cluster)
    return found[0], problems


@pytest.mark.parametrize(("held", "least", "memory"), [(200, 25_000, 374), (0, 25_000, 374), (200, stages.TRAINED_BYTES, 300)])
def test_a_tokenizers_training_takes_less_than_its_text_grows(
    held: int, least: int, memory: int, made: tuple[Recipe, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four times the text take 2.8 times the time, and 1.7 times the memory that is not the libraries': what the process held
    before, or, in ledgers that do not tell it, what the smallest task took. Below `least` bytes it takes no less."""
    monkeypatch.setattr(stages, "TRAINED_BYTES", least)
    rates = read_rates(str(made[1]))
    measured = Work(seconds=10.0, memory=300, bytes_in=25_000, held=held)
    rates.work |= {("tokenizer", "", ""): measured, ("plan shards", "", ""): Work(memory=200)}
    found = plan(build_recipe(recipe_data(made[1].parent)), rates, HERE)
    trained = next(stage for stage in found["stages"] if stage["phase"] == "tokenizer")
    assert trained["bytes_in"] == near(100_000) and trained["memory"] == near(memory)
    assert trained["core_seconds"] == pytest.approx(28.3, rel=0.02)


def test_hours_and_money_on_a_cluster() -> None:
    ten = Cluster(10, 16, 64 << 30, price=2.0)
    phase, problems = one_phase(ten)
    assert (phase.seconds, phase.bound, phase.cost, problems) == (225.0, "cores", 225 / 3600 * 20, [])
    phase, _ = one_phase(ten, memory=8 << 30)  # five at a time on each node: Ray keeps 30% of its memory
    assert (phase.seconds, phase.bound) == (720.0, "memory")
    phase, _ = one_phase(ten, tasks=10)
    assert (phase.seconds, phase.bound) == (3600.0, "few tasks")
    phase, _ = one_phase(Cluster(10, 16, 64 << 30, bandwidth=1e9), read=6_000_000_000_000, written=4_000_000_000_000)
    assert (phase.seconds, phase.bound, phase.cost) == (1000.0, "network", None)
    _, problems = one_phase(ten, memory=100 << 30)
    assert "work (web): a task needs 107 GB of memory, a node has 48.1 GB for tasks" in problems[0]


def test_sources_have_a_bandwidth_of_their_own_and_requests_and_storage_a_price() -> None:
    far = Cluster(10, 16, 64 << 30, price=2.0, bandwidth=1e9, outside=1e8, requests=(0.4, 5.0), storage=730.0)
    stage = Stage("read", "web", 100, memory=1 << 30, core_seconds=360.0, read=720_000_000_000, outside=720_000_000_000)
    stage.written = 1000 << 24
    found, _ = phases(Forecast([stage], {}, 0, [], []), far)
    assert (found[0].seconds, found[0].bound) == (7200.0, "sources")
    assert found[0].requests == (300, 1000)
    requests, stored = other_costs(found, far)
    assert requests == pytest.approx((300 * 0.4 + 1000 * 5) / 1e6)
    assert stored == pytest.approx(stage.written / 1e12 * 2 / 730 * 730)
    assert other_costs(found, Cluster(1, 1, 1 << 30)) == (None, None)


def test_a_phase_lasts_as_long_as_its_largest_task() -> None:
    phase, _ = one_phase(Cluster(10, 16, 64 << 30), longest=0.1)
    assert (phase.seconds, phase.bound) == (3600.0, "few tasks")


def test_each_process_begins_once() -> None:
    phase, _ = one_phase(Cluster(10, 16, 64 << 30), tasks=5, start_seconds=2.0)
    assert phase.core_seconds == 36_010.0
    phase, _ = one_phase(Cluster(10, 16, 64 << 30), start_seconds=2.0)  # 160 at a time of 1000
    assert phase.core_seconds == 36_320.0


def test_tasks_that_use_several_cores_take_less_time_and_leave_less_room() -> None:
    phase, _ = one_phase(Cluster(10, 16, 64 << 30), tasks=10, cores=8)
    assert (phase.seconds, phase.bound) == (3600 / (8 * SHARED), "few tasks")
    phase, _ = one_phase(Cluster(10, 16, 64 << 30), tasks=1000, cores=8)
    assert (phase.seconds, phase.bound) == (36000 / SHARED / 160, "cores")
    phase, _ = one_phase(Cluster(10, 4, 64 << 30), tasks=1000, cores=8)  # of a node with fewer they take all
    assert (phase.seconds, phase.bound) == (36000 / SHARED / 40, "cores")
    phase, _ = one_phase(Cluster(10, 16, 64 << 30), tasks=1000, cores=8, memory=30 << 30)
    assert (phase.seconds, phase.bound) == (36000 / SHARED / 80, "memory")


def test_rates_are_of_the_source_itself_where_it_has_enough_text() -> None:
    rates = Rates("here")
    rates.add("tokenize", "big", "", Work(1.0, 1, bytes_in=10_000_000))
    rates.add("tokenize", "small", "", Work(1.0, 1, bytes_in=1000))
    assert rates.speed("tokenize", "big", "").seconds_per_byte == 1e-7
    assert rates.speed("tokenize", "small", "").bytes_in == 10_001_000
    assert rates.speed("tokenize", "other", "").bytes_in == 10_001_000
    assert rates.of("tokenize", "small", "").bytes_in == 1000  # what it holds, not how fast it goes
    assert rates.of("shard", "big", "") is None


def test_a_steps_time_is_its_share_of_the_tasks_processor_time(made: tuple[Recipe, Path], rates: Rates) -> None:
    there = [e for e in entries(made[1]) if str(e.ref).startswith("documents/web/0/")]
    told = rates.work["read", "web", "0"].seconds + rates.work["step:gopher_quality", "web", "gopher_quality"].seconds
    beginning = rates.work["start", "web", "documents 0"]
    assert [entry.first for entry in there].count(True) == beginning.tasks == 1
    assert all(0 < entry.held < entry.peak_memory for entry in there)
    assert ("start", "", "tokenizer train") not in rates.work  # it has no later task to be told from
    (first,) = (entry for entry in there if entry.first)
    later = [entry for entry in there if not entry.first]
    size = {entry.key: entry.report_as(DocumentsReport).books[0].into.bytes for entry in there}
    speed = sum(entry.cpu_seconds for entry in later) / sum(size[entry.key] for entry in later)
    # Where libraries were loaded before, the first task may have been the faster one.
    of_first = max(first.cpu_seconds, speed * size[first.key])
    assert told + beginning.seconds == pytest.approx(sum(e.cpu_seconds for e in later) + of_first, rel=0.05)


def task(cpu: float, size: int, first: bool = False, **facts: Any) -> Entry:
    """A task over so many bytes of text; 0: it does not count its text."""
    into = {"docs": 1, "bytes": size}
    report = {"books": [msgspec.to_builtins(StepBooks("read", into=Amount(**into), out=Amount(**into)))]} if size else {}
    told = {"seconds": cpu, "cpu_seconds": cpu, "peak_memory": 0, "host": "", "finished": "", "first": first} | facts
    raw = msgspec.Raw(msgspec.json.encode(report))
    return Entry("", Ref("documents", "web", "0", 0), "", "", None, [], [], **told, report=raw)


def test_what_first_tasks_load_is_told_apart_from_what_text_takes() -> None:
    apart, start = told_apart([task(5.0, 1000, first=True), task(1.0, 1000), task(2.0, 2000)])
    assert (start.seconds, start.tasks) == (pytest.approx(4.0, abs=0.01), 1)
    assert [entry.cpu_seconds for entry in apart] == [0, pytest.approx(4 / 3, rel=0.01), pytest.approx(8 / 3, rel=0.01)]
    apart, start = told_apart([task(5.0, 1000, first=True), task(0.1, 10)])  # too little text to go by
    assert (start.seconds, start.tasks, [entry.cpu_seconds for entry in apart]) == (0.0, 1, [5.0, 0.1])
    apart, start = told_apart([task(1.0, 0), task(1.0, 0)], [task(3.0, 0, first=True)], share=0.25)
    assert (start.seconds, start.tasks, [entry.cpu_seconds for entry in apart]) == (2.75, 1, [0.0, 2.0])
    before = task(1.0, 100, first=True, held=100, peak_memory=180)
    apart, _ = told_apart([task(1.0, 100, held=150, peak_memory=300), task(1.0, 100, held=90, peak_memory=110)], [before])
    assert [(entry.held, entry.peak_memory) for entry in apart] == [(100, 250), (90, 180)]


@pytest.fixture(scope="module")
def unreachable() -> Recipe:
    return build_recipe(
        {
            "name": "far",
            "sources": {
                "books": {
                    "read": {"paths": ["/nowhere/*.jsonl.gz"]},
                    "expected": {"files": 1000, "documents": "1B"},
                    "steps": [
                        "gopher_quality",
                        {"decontaminate": {"files": "/nowhere/tasks.jsonl"}},
                        {"dedup": {"method": "bff", "shards": 50, "expected_removal": [0.5, 0.6]}},
                        {"quality": {"model": "/nowhere/model.bin"}},
                    ],
                }
            },
            "tokenizer": {"path": "/nowhere/tokenizer.json"},
            "mixture": {"tokens": 10**12, "max_repeats": 10},
            "expected": {"documents": 10**9, "text_bytes": "5TB"},
            "run": {"keep": "none"},
        }
    )


def test_rates_are_measured_by_a_small_run_of_the_recipe(
    unreachable: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.forecast.filters.MOST_BYTES", 64 << 20)
    rates = calibrate(unreachable, list_sources(unreachable), size=600_000)
    tried, sample, *notes = rates.notes
    assert re.fullmatch(r"books\.dedup: a filter of 67\.1 MB was tried; one of [\d.]+ [kM]B takes \d+% of its time", tried)
    assert sample.startswith("books: measured on the sample's text: its own files cannot be read here")
    assert len(notes) == 3 and all("/nowhere/" in note and "cannot be reached" in note for note in notes)
    for key in (("step:gopher_quality", "books", "gopher_quality"), ("step:quality", "books", "quality")):
        assert rates.work[key].seconds > 0 and rates.work[key].bytes_in > 500_000
    assert rates.work["dedup:bff", "books/dedup", "filter"].tasks == 1
    rates.write(tmp_path / "rates.json")
    again = read_rates(str(tmp_path / "rates.json"))
    assert again == rates
    found = plan(unreachable, again, Cluster(50, 64, 512 << 30, price=4.0), offline=True)
    assert found["total"]["core_hours"] > 10 and found["total"]["cost"] > 1
    assert any("not measured, and counted as nothing: step decontaminate" in line for line in found["assumptions"])
    filters = next(stage for stage in found["stages"] if stage["phase"] == "dedup 1: filter")
    assert filters["tasks"] == 50 and filters["memory"] > 10 << 30
    assert any("dedup books/dedup: a task of filter would need" in line for line in found["problems"])


def test_pages_that_cannot_be_reached_are_measured_on_pages_and_text_on_text(tmp_path: Path) -> None:
    steps = ["extract", {"dedup": {"method": "exact"}}]
    data = {
        "name": "two",
        "sources": {
            "crawl": {"read": {"paths": ["/nowhere/*.warc.gz"]}, "steps": steps},
            "dclm": {"read": {"paths": ["/nowhere/*.jsonl.zst"]}, "steps": steps[1:]},
        },
        "tokenizer": {"train": {"vocab_size": 500}},
        "mixture": {},
    }
    recipe = build_recipe(data)
    rates = calibrate(recipe, list_sources(recipe), size=2_000_000)
    notes = [note.partition(" (")[0] for note in rates.notes]
    assert notes == [
        "crawl: measured on the sample's pages, of which more is text than of the web's: its own files cannot be read here",
        "dclm: measured on the sample's text: its own files cannot be read here",
    ]
    assert ("step:extract", "crawl", "extract") in rates.work and ("step:extract", "dclm", "extract") not in rates.work
    assert 0 < rates.work["files", "crawl", ""].bytes_out <= 1_100_000


def test_the_command(
    made: tuple[Recipe, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(recipe_data(made[1].parent)))
    flags = ["--nodes", "4", "--cores", "8", "--memory", "32", "--price-per-hour", "1.5", "--bandwidth", "500"]
    assert main(["plan", str(path), "--rates", str(made[1]), *flags]) == 0
    out = capsys.readouterr().out
    for text in (
        "read and filter",
        "core-hours",
        "cost",
        "4 nodes of 8 cores and 34.4 GB, 30% of it kept by Ray, 1.5 an hour each, 500 MB/s",
        "the ledger of",
    ):
        assert text in out
    assert main(["plan", str(path), "--rates", str(made[1]), "--json"]) == 0
    assert orjson.loads(capsys.readouterr().out)["total"]["cost"] is None
    monkeypatch.chdir(tmp_path)
    for arguments, message in (
        ([], "no rates: name a finished run with --rates, or measure with --measure (runs/small is not there)"),
        (["--rates", "none.json"], "none.json: cannot be read"),
        (["--rates", "none"], "holds no finished run"),
        (["--rates", str(made[1]), "--measure"], "both given"),
        (["--save", "x.json"], "--save goes with --measure"),
        (["--rates", str(made[1]), "--nodes", "0"], "--nodes 0: must be above 0"),
        (["--rates", str(made[1]), "--price-per-hour", "-3"], "--price-per-hour -3: must be 0 or above"),
    ):
        assert main(["plan", str(path), *arguments]) == 2
        assert message in capsys.readouterr().err
    tokens = write_run(tmp_path / "tokens", {"web": [[[5, 0]]]})
    assert main(["plan", str(path), "--rates", str(tokens)]) == 2
    assert "holds no run of a recipe" in capsys.readouterr().err
    (tmp_path / "bad.json").write_text("{}")
    assert main(["plan", str(path), "--rates", "bad.json"]) == 2
    assert "holds no rates" in capsys.readouterr().err


def test_the_full_profile_is_planned_without_network(
    rates: Rates, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rates.write(tmp_path / "rates.json")
    recipe = str(ROOT / "configs/dclm_mix.yaml")
    assert (
        main(["plan", recipe, "--profile", "full", "--offline", "--rates", str(tmp_path / "rates.json"), "--json"]) == 0
    )
    found = orjson.loads(capsys.readouterr().out)
    assert found["mixture_tokens"] == 5_133_000_000_000 and 4.0e12 < found["total"]["tokens"] < 4.1e12
    assert found["sources"]["dclm"]["repeats"] == pytest.approx(1.262, abs=0.005)
    assert next(s["tasks"] for s in found["stages"] if s["source"] == "dclm") == 1970  # as many as files, which cannot be cut
    assert any("step token_repeats" in line for line in found["assumptions"])
