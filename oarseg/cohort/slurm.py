"""A batch script for Slurm, whose tasks are a cohort's workers."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from oarseg.errors import InputError


def batch_script(output: Path, command: Sequence[str], *, workers: int, cpus: int) -> str:
    """Return an array of jobs that work on a cohort; Slurm only starts them.

    Args:
        output: the cohort's folder, which every node must see under this path.
        command: the worker's command line.
        workers: jobs of the array.
        cpus: of each.

    Raises:
        InputError: the folder has a path that Slurm's options cannot hold.
    """
    if not str(output).isprintable() or set(str(output)) & set('"\\'):
        raise InputError(
            f"{str(output)!a}: expected a path that a batch script can hold, found quotes, "
            "backslashes or control characters; rename it"
        )
    log = str(output / "cohort").replace("%", "%%")
    line = " ".join(map(shlex.quote, command))
    return f"""\
#!/bin/bash
#SBATCH --job-name=oarseg
#SBATCH --array=1-{workers}
#SBATCH --ntasks=1
#SBATCH --cpus-per-task={cpus}
#SBATCH --output="{log}/slurm-%A_%a.log"
#SBATCH --open-mode=append
# Killed or requeued jobs lose nothing: whoever runs takes over what they left. For a GPU each,
# add: #SBATCH --gres=gpu:1
exec {line}
"""
