"""One AWS provider that many runs of terraform in this process share, instead of some forty starts of 700 MB.

Terraform starts a provider for every walk over its graph: nine times in a test of two runs, and reads its whole schema
the first time. Terraform can use one that runs already, as for debugging a provider (Terraform's plugin development
documentation, "Debugging Providers", read 2026-11): `-debug` makes the provider print how to reach it. A kms test
then takes 1.8 instead of 4.7 s of CPU, the 32 runs of serving 18 instead of 60 (2 cores, 2026-11-22).

Only where one provider is configured: an attached one has one configuration, and aliases would overwrite each other's.
"""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path

# The shell ends the provider when its own standard input closes, that is when we end, however we end. It lets go of
# standard output, so that a provider that dies is seen there.
STARTED = '"$0" -debug & exec >&-; read -r _; kill $!'
BINARY = ".terraform/providers/registry.terraform.io/hashicorp/aws/*/*/terraform-provider-aws_*"
WORD = "TF_REATTACH_PROVIDERS="


@functools.cache
def attached_provider(binary: Path, account: tuple[tuple[str, str], ...] = ()) -> dict[str, str]:
    """The environment in which terraform finds the running provider; empty where it did not start: then it is slow.

    The provider itself looks for credentials and endpoints in its own environment: `account` comes on top of ours.
    """
    shell = subprocess.Popen(
        ["sh", "-c", STARTED, str(binary)],
        env={name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | dict(account),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # ^C is for the tests; the provider ends with them
    )
    _KEPT.append(shell)
    assert shell.stdout is not None
    for line in shell.stdout:
        if WORD in line:
            return {WORD[:-1]: line.partition(WORD)[2].strip().strip("'")}
    return {}


def provider_binary(folder: Path) -> Path | None:
    """The provider in an initialised folder."""
    return next(iter(sorted(folder.glob(BINARY))), None)


# A Popen that nobody holds closes its pipes, and the provider would end.
_KEPT: list[subprocess.Popen[str]] = []
