"""Count the CPUs that this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path


def available_cpus() -> int:
    """Return the CPUs that this process may use: its affinity, or the cgroup's quota if smaller."""
    cpus = len(os.sched_getaffinity(0))
    quota = _cgroup_quota()
    return cpus if quota is None else max(1, min(cpus, math.ceil(quota)))


def _cgroup_quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Return the cgroup's quota (version 2, then 1) as a number of CPUs; None without one."""
    second, first = root / "cpu.max", root / "cpu" / "cpu.cfs_quota_us"
    if second.is_file():
        quota, period = second.read_text().split()
    elif first.is_file():
        quota = first.read_text().strip()
        period = first.with_name("cpu.cfs_period_us").read_text().strip()
    else:
        return None
    return None if quota in ("max", "-1") else float(quota) / float(period)
