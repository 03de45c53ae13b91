"""What every other room builds on: norms, noise, schedules, modes, seeds, data-set facts, run folders."""
