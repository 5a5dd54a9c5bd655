"""Data manager: tasks, groups, trajectories, sampling, curation, staleness."""
