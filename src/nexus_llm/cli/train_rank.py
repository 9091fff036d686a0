"""One of several processes that train together: `python -m nexus_llm.cli.train_rank JOB`, started by torchrun."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from nexus_llm.errors import NexusError, UsageError

ARGUMENTS = ("-m", "nexus_llm.cli.train_rank")


def main() -> None:
    """Ends the process with the exit code of its part of the run; torchrun gets the words."""
    from nexus_llm.train.distributed.launch import end_rank, leave_last_words

    # stdout belongs to the command's own answer; DeepSpeed and accelerate print there.
    os.dup2(2, 1)
    try:
        _train(Path(sys.argv[1]))
    except NexusError as error:
        leave_last_words(error, os.environ)
        end_rank(error.exit_code)
    end_rank(0)


def _train(path: Path) -> None:
    from nexus_llm import storage
    from nexus_llm.artifacts import load
    from nexus_llm.cli.console import console_progress
    from nexus_llm.cli.options import tracker
    from nexus_llm.cloud.local_ranks import FACTS, RankJob
    from nexus_llm.cloud.training_processes import TerminationNotice
    from nexus_llm.ports import Ports
    from nexus_llm.recipe import Recipe
    from nexus_llm.train.distributed.process_group import joined, place
    from nexus_llm.train.stage import train_here

    here, notice = place(os.environ), TerminationNotice().install()
    if here is None:
        raise UsageError("this program is started by torchrun", fix="nexus train RECIPE starts it")
    job = RankJob.read(path)
    recipe = Recipe.model_validate(job.recipe)
    ports, folder, work = Ports(interrupt=notice), Path(job.folder), Path(job.work)
    if here.rank == 0:
        ports = replace(ports, progress=console_progress(), tracker=tracker(recipe, runs=folder.parents[2] / "runs"))
    inputs = {kind: load(Path(one)) for kind, one in job.inputs.items()}
    with joined(here) as ranks, storage.explained(job.folder):
        facts = train_here(recipe, inputs, folder, work, ports, ranks)
        if here.rank == 0:
            storage.write_atomically(work / FACTS, json.dumps(facts).encode())


if __name__ == "__main__":
    main()
