"""From a graph to something that runs: compile, execute, save and restore variables."""
