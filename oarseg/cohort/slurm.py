"""A batch script for Slurm, whose tasks are a cohort's workers."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path


def batch_script(output: Path, command: Sequence[str], *, workers: int, cpus: int) -> str:
    """Return an array of jobs that work on a cohort; Slurm only starts them.

    Args:
        output: the cohort's folder, which every node must see under this path.
        command: the worker's command line.
        workers: jobs of the array.
        cpus: of each.
    """
    line = " ".join(map(shlex.quote, command))
    return f"""\
#!/bin/bash
#SBATCH --job-name=oarseg
#SBATCH --array=1-{workers}
#SBATCH --ntasks=1
#SBATCH --cpus-per-task={cpus}
#SBATCH --output={output}/cohort/slurm-%A_%a.log
#SBATCH --open-mode=append
# Killed or requeued jobs lose nothing: whoever runs takes over what they left. For a GPU each,
# add: #SBATCH --gres=gpu:1
exec {line}
"""
