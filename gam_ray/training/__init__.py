"""What one worker runs: pretraining, matching, adaptation, evaluation, checkpoints."""
