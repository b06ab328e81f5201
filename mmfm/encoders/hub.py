"""Files of the Hugging Face hub, from its cache or the network; what stops them, in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmfm.encoders.architectures import first_line, quiet
from mmfm.errors import ModelError


def fetch(repository: str, files: Sequence[str]) -> Path:
    """The first of `files` that the repository has, as a path in the cache.

    Raises ModelError that says what to set when the hub cannot be reached, or does not have it.
    """
    from huggingface_hub import constants, errors, hf_hub_download

    cache_only = constants.HF_HUB_OFFLINE
    unreachable = None
    for name in files:
        try:
            with quiet():  # else every retry is told
                return Path(hf_hub_download(repository, name, local_files_only=cache_only))
        except errors.HFValidationError as error:
            raise ModelError(
                f"{repository!r} is no name of a hub repository; wanted ORGANISATION/NAME"
            ) from error
        except errors.LocalEntryNotFoundError as error:
            unreachable, cache_only = error, True  # look for the others in the cache, at once
        except errors.EntryNotFoundError:
            continue
        except errors.RepositoryNotFoundError as error:
            raise ModelError(
                f"the hub has no repository {repository!r} that you may read; check the name, and "
                "if it is private or gated set HF_TOKEN"
            ) from error
        except (OSError, ValueError) as error:  # HTTP errors, a full disk, a broken download
            raise ModelError(
                f"{name} of {repository} cannot be downloaded ({first_line(error)}); try again, or "
                "give a folder with local-dir:PATH"
            ) from error
    if unreachable is None:
        raise ModelError(
            f"the repository {repository} has none of {', '.join(files)}; wanted an open_clip model"
        )
    why = (
        "HF_HUB_OFFLINE is set; unset it"
        if constants.HF_HUB_OFFLINE
        else "the hub cannot be reached; check the network (HF_ENDPOINT names a mirror)"
    )
    raise ModelError(
        f"{files[0]} of {repository} is not in the cache {constants.HF_HUB_CACHE}, and {why}, or "
        "set HF_HOME to the folder that holds it, or give a folder with local-dir:PATH"
    ) from unreachable
