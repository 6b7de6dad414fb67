"""Readers of other libraries' model files: each makes a graph of Niello from one."""
