"""Accumulates tiles and paints labels on a GPU, by CuPy; nothing here imports CuPy at the top."""
