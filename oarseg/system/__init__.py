"""The machine: CPUs, memory limits, resource usage, logging."""
