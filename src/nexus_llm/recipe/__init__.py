"""The recipe: what a user wants, in one validated value."""

from nexus_llm.recipe.load import default_recipe, load_recipe, recipe_yaml
from nexus_llm.recipe.schema import (
    DataRecipe,
    EvaluateRecipe,
    FilesSource,
    GateRecipe,
    ModelRecipe,
    NearDuplicateRecipe,
    PackageRecipe,
    PythonDocsSource,
    QualityRecipe,
    Recipe,
    ServeRecipe,
    Source,
    SplitRecipe,
    TrainRecipe,
)

__all__ = [
    "DataRecipe",
    "EvaluateRecipe",
    "FilesSource",
    "GateRecipe",
    "ModelRecipe",
    "NearDuplicateRecipe",
    "PackageRecipe",
    "PythonDocsSource",
    "QualityRecipe",
    "Recipe",
    "ServeRecipe",
    "Source",
    "SplitRecipe",
    "TrainRecipe",
    "default_recipe",
    "load_recipe",
    "recipe_yaml",
]
