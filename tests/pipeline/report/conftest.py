"""One run, its figures and its page, for all tests of the report."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reported import figures, run, write_inputs

from pipeline.report.gather import gather
from pipeline.report.page import page


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    sys.path.append(str(folder))
    yield folder
    sys.path.remove(str(folder))
    sys.modules.pop("report_filters", None)


@pytest.fixture(scope="session")
def finished(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return run(inputs, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def found(finished: str) -> dict[str, Any]:
    return figures(finished)


@pytest.fixture(scope="session")
def html(finished: str) -> str:
    return page(gather(finished)).decode()
