"""Reverse-mode differentiation of graphs."""

from niello.autodiff.gradients import gradients as gradients
