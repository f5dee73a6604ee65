"""Studies: the search space to Optuna, trials to Ray Tune, lanes to Ray Train."""
