"""The stages of dvc.yaml, a module each."""

from pipeline import environment

environment.require()
