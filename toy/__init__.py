"""Densities that are known exactly: mixtures, their noised targets, samplers, and the theorems verified on them."""

from __future__ import annotations

from toy.distances import EnergyDistance, energy_distance
from toy.dual import domain_end, dual_value
from toy.examples import EXAMPLES, Example, example
from toy.guidance import guidance_errors, guidance_table, guided_score
from toy.mixtures import GaussianMixture, log_ratio, moments
from toy.noised import NoisedMixture, SignedMixture, TiltedLaw, noised_target, score_of_target
from toy.paths import ReverseKernel, sample_paths
from toy.prompts import PromptedMixture, PromptedSolution, solve_prompted
from toy.quadrature import Nodes, component_nodes, draws, grid
from toy.samplers import free_log_ratios, sample_ddim, sample_ddpm, sample_ode
from toy.schedules import SCHEDULES, Schedule
from toy.solving import (
    ResolutionError,
    ToySolution,
    TruncationError,
    check_masses,
    check_resolution,
    check_truncation,
    log_ratios,
    solve,
)

__all__ = [
    "EXAMPLES",
    "SCHEDULES",
    "EnergyDistance",
    "Example",
    "GaussianMixture",
    "Nodes",
    "NoisedMixture",
    "PromptedMixture",
    "PromptedSolution",
    "ResolutionError",
    "ReverseKernel",
    "Schedule",
    "SignedMixture",
    "TiltedLaw",
    "ToySolution",
    "TruncationError",
    "check_masses",
    "check_resolution",
    "check_truncation",
    "component_nodes",
    "domain_end",
    "draws",
    "dual_value",
    "energy_distance",
    "example",
    "free_log_ratios",
    "grid",
    "guidance_errors",
    "guidance_table",
    "guided_score",
    "log_ratio",
    "log_ratios",
    "moments",
    "noised_target",
    "sample_ddim",
    "sample_ddpm",
    "sample_ode",
    "sample_paths",
    "score_of_target",
    "solve",
    "solve_prompted",
]
