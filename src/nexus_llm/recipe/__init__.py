"""The recipe: what a user wants, in one validated value."""

from nexus_llm.recipe.cost import CostRecipe, Purchase, ScalingRecipe
from nexus_llm.recipe.evaluate import EvaluateRecipe, GateRecipe, RuleName, TaskRule
from nexus_llm.recipe.load import default_recipe, load_recipe, load_section, recipe_yaml
from nexus_llm.recipe.package import PackageRecipe
from nexus_llm.recipe.schema import (
    DataRecipe,
    FilesSource,
    KeysRecipe,
    ModelRecipe,
    PythonDocsSource,
    Recipe,
    ServeRecipe,
    Source,
    SplitRecipe,
)
from nexus_llm.recipe.serving import PrioritiesRecipe, TimeoutsRecipe
from nexus_llm.recipe.telemetry import SamplesRecipe, TelemetryRecipe
from nexus_llm.recipe.train import TrainRecipe

__all__ = [
    "CostRecipe",
    "DataRecipe",
    "EvaluateRecipe",
    "FilesSource",
    "GateRecipe",
    "KeysRecipe",
    "ModelRecipe",
    "PackageRecipe",
    "PrioritiesRecipe",
    "Purchase",
    "PythonDocsSource",
    "Recipe",
    "RuleName",
    "SamplesRecipe",
    "ScalingRecipe",
    "ServeRecipe",
    "Source",
    "SplitRecipe",
    "TaskRule",
    "TelemetryRecipe",
    "TimeoutsRecipe",
    "TrainRecipe",
    "default_recipe",
    "load_recipe",
    "load_section",
    "recipe_yaml",
]
