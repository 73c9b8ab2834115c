"""`fetch SOURCE --output FOLDER`: a checkpoint from the Hub, or a folder of one's own, by links."""

from pathlib import Path
from typing import Annotated

import typer

Cache = Annotated[
    Path | None, typer.Option(help="Where downloads lie (default: the Hub's own cache).")
]
LockFile = Annotated[
    Path | None,
    typer.Option(help="Take what this file holds the source to; record it there if it is new."),
]
Note = Annotated[
    Path | None, typer.Option(help="A file to write the digest of the lock's entry to.")
]


def fetch(
    source: Annotated[
        str,
        typer.Argument(help="hub:owner/name@revision[:folder], a folder, or a file."),
    ],
    output: Annotated[Path, typer.Option(help="The checkpoint folder to make.")],
    cache: Cache = None,
    lock: LockFile = None,
    note: Note = None,
    loadable: Annotated[
        bool,
        typer.Option(
            "--loadable",
            help="Write as safetensors what transformers and vLLM would not load.",
        ),
    ] = False,
    base: Annotated[
        str | None, typer.Option(help="The base of an adapter, which is merged into it.")
    ] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code", help="Take its Python code, too, and run it where it is loaded."
        ),
    ] = False,
) -> None:
    """Make a checkpoint folder of links, with a manifest: weights, configuration and tokenizer.

    Every file is verified. Files of torch.save are taken where there are no safetensors, if they
    hold tensors and nothing that runs; an adapter with --base is written merged. HF_TOKEN opens
    gated repositories; HF_ENDPOINT names another Hub.

    Examples:

    python -m subnetworks fetch hub:Qwen/Qwen2.5-0.5B@main --output checkpoints/qwen

    python -m subnetworks fetch ~/models/mine --output checkpoints/mine
    """
    from subnetworks import checkpoints
    from subnetworks.core.provenance import recorded

    settings = {"source": source, "trust_remote_code": trust_remote_code}
    settings |= {"base": base} if base else {}
    with recorded(output / "manifest.json", settings=settings):
        path = checkpoints.fetch(
            source,
            output,
            cache,
            lock,
            trusted=trust_remote_code,
            note=note,
            loadable=loadable,
            base=base,
        )
    typer.echo(path)
