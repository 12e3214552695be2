"""Every command of the documents: it runs and prints what its page shows, or it says why not, and is one that there is."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pages
import pytest

# Pages whose commands another test carries out, from a wheel and on files that are made for them.
ELSEWHERE = {"docs/quickstart.md": "tests/test_first_hour.py"}
# In this order: a page that changes the run of the sample comes behind those that show it.
TOUR = [
    "README.md",
    "CONTRIBUTING.md",
    "docs/status.md",
    "docs/why.md",
    "docs/clusters.md",
    "docs/report.md",
    "docs/looking-inside.md",
    "docs/mixture.md",
    "docs/olmoe-mixture.md",
    "docs/build-from-crawl.md",
    "docs/train-a-classifier.md",
    "docs/dedup-old-crawls.md",
    "docs/topics-and-quality.md",
    "docs/trainer.md",
    "docs/analysis.md",
    "docs/adaptation.md",
    "docs/tune-a-filter.md",
]
SYNOPSIS = re.compile(r"(?:python -m (pipeline|trainer)|(headrace)) ([a-z][a-z-]+)([^`\n]*)")


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pages.Tour]:
    """A folder with the files that pages say a reader has."""
    folder = tmp_path_factory.mktemp("tour")
    pages.write_inputs(folder)
    yield pages.Tour(folder)


def test_each_page_is_in_one_test_and_its_blocks_say_what_they_are() -> None:
    runs = {page for page in pages.pages() if any(not command.mark for command in pages.commands(page))}
    assert runs <= {*TOUR, *ELSEWHERE}, "their commands run in no test"
    for page in pages.pages():
        for block in pages.blocks(page):
            assert block.language in pages.LANGUAGES, f"{page}, line {block.line - 1}: ```{block.language}"
            if block.language == "text":
                typed = [line for line in block.lines if re.match(r"(\$ |python -m |headrace |make |ray |pip )", line)]
                assert not typed, f"{page}, line {block.line}: a command in a block of text"


@pytest.mark.parametrize("page", pages.pages())
def test_commands_that_are_not_run_are_commands_that_there_are(page: str) -> None:
    for command in pages.commands(page):
        for text in [command.text, *re.findall(r"-- \\\n\s*(python -m pipeline.*)", command.text)]:
            found = pages.parse(pages.Command(page, command.line, text, command.mark))
            recipe = getattr(found, "recipe", None)
            if command.mark and recipe and not recipe.startswith("/"):  # of others the run itself tells
                assert (pages.ROOT / recipe).exists() or (pages.ROOT / "configs" / f"{recipe}.yaml").exists(), command.text
        for path in re.findall(r"\bconfigs/\S+", command.text):
            assert (pages.ROOT / path).exists(), command.text


@pytest.mark.parametrize("page", pages.pages())
def test_what_pages_say_in_passing_names_commands_and_flags_that_there_are(page: str) -> None:
    helps = pages.flags_of_commands()
    text = (pages.ROOT / page).read_text()
    for package, installed, command, rest in SYNOPSIS.findall(text):
        name = "pipeline" if installed else package
        if (name, command) == ("pipeline", "train"):
            name = "trainer"
        if (name, command) == ("pipeline", "trainer"):
            continue
        assert (name, command) in helps, f"{page}: {command}"
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*", rest.split("#")[0].split(" && ")[0]):
            assert flag in helps[name, command], f"{page}: {command} {flag}"


@pytest.mark.parametrize("page", TOUR)
def test_the_commands_of_a_page_run_and_print_what_it_shows(page: str, tour: pages.Tour) -> None:
    tour.take_files(page)
    for command in pages.commands(page):
        if not command.mark:
            printed = tour.run(command.text, wrong=command.wrong)
            missing = [line for line, found in pages.compared(command.output, printed) if found is None]
            assert not missing, f"{page}, line {command.line}: {command.text}\nshown, but not printed: {missing}\n{printed}"


def test_numbers_and_names_of_documents_may_differ_and_nothing_else() -> None:
    shown = " dclm   3,786   33.4 MB   36.0%   see http://a.example/x, 19 s"
    assert pages.shape(shown) == pages.shape(" dclm  12   1 kB  7%  see https://b.example/y, 2 min 05 s")
    assert pages.shape(shown) != pages.shape(shown.replace("see", "look"))
    printed = "head\na 1\nb 2\nc 3\n"
    assert [found for _, found in pages.compared(["a 9", "...", "c 0"], printed)] == ["a 1", "...", "c 3"]
    assert [found for _, found in pages.compared(["c 9", "a 0"], printed)] == ["c 3", None]


def test_what_pairs_names_as_next_is_the_command_that_the_page_runs(tour: pages.Tour) -> None:
    commands = [command.text for command in pages.commands("docs/adaptation.md")]
    for made in (command for command in commands if command.endswith(("--out runs/mbpp", "--out runs/mbpp_preferred"))):
        folder = made.rsplit(" ", 1)[1]
        found = re.search(r"^next: (.*)$", tour.run(made), re.M)
        method = "dpo_tiny" if "preferred" in folder else "sft_tiny"
        adapt = rf"python -m trainer adapt adapt/{method} --from (runs/train/\w+) --data {folder}"
        named = found and re.fullmatch(adapt, found[1])
        assert named and (tour.folder / named[1] / "checkpoints").is_dir()  # the newest that has the tokenizer
