"""What one types beside `dvc`: command lines that are no node of the graph, a module each."""

from pipeline import environment

environment.require()
