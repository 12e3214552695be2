"""`export --out hf://datasets/ORG/NAME`: what was written to a folder here goes to a dataset on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from pipeline.storage.errors import redact
from pipeline.storage.hub import endpoint, parse
from stages.errors import UserError

HUB = "hf://"


def check_target(uri: str) -> None:
    """Raise UserError where a dataset cannot be addressed so."""
    if parse(uri).kind != "dataset":
        raise UserError(f"{uri}: exports go to datasets: hf://datasets/ORG/NAME")


def upload(folder: Path, uri: str) -> None:
    """Upload a folder's files; the dataset is made, private, where there is none. Raises UserError with the hub's words."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError
    from requests.exceptions import RequestException

    place = parse(uri)
    api = HfApi(endpoint=endpoint())
    try:
        api.create_repo(place.repo, repo_type="dataset", private=True, exist_ok=True)
        api.upload_folder(
            folder_path=folder,
            repo_id=place.repo,
            repo_type="dataset",
            revision=place.revision,
            path_in_repo=place.path or None,
            commit_message="Upload an export of a Headrace run",
            ignore_patterns=["run.lock", ".scratch/**", "ledger/**"],
        )
    except (HfHubHTTPError, RequestException, OSError) as error:
        said = redact(" ".join(str(error).split()))
        raise UserError(f"{uri}: the hub did not take the upload: {said}; is HF_TOKEN one that may write there?") from None
