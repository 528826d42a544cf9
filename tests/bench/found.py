"""Figures such as `d2o bench` finds, without the minutes that it takes."""

FOUND = {
    "machine": {"processor": "P", "cores": 2, "threads": 2, "torch": "2", "peak_gflops": 100.0},
    "settings": {"batch": 4, "parameters": 10, "repeats": 3},
    "parts": {"d2o_f": {"backward": 0.01, "iteration": 0.02}, "d2o_f_plain": {"backward": 0.03, "iteration": 0.06}},
    "images_per_second": {"d2o_f": 50.0, "d2o_f_plain": 20.0},
    "spread": {"d2o_f": 0.1},
    "peak_share": {"d2o_f": 0.5},
    "ratio": {"d2o_f_step": 2.5},
    "memory_ratio": {"d2o_f": 0.5},
    "memory_mib": {"d2o_f": 100.0},
    "notes": ["a note"],
}
