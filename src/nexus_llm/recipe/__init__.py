"""The recipe: what a user wants, in one validated value."""

from nexus_llm.recipe.cost import CostRecipe, ObjectiveRecipe, Purchase, ServiceRecipe, TrafficRecipe
from nexus_llm.recipe.evaluate import EvaluateRecipe, GateRecipe, RuleName, TaskRule
from nexus_llm.recipe.load import default_recipe, load_recipe, load_section, recipe_yaml
from nexus_llm.recipe.package import PackageRecipe
from nexus_llm.recipe.schema import (
    AwsDataRecipe,
    BlockRecipe,
    DataRecipe,
    EvaluationSet,
    FilesSource,
    KeysRecipe,
    LanguageRecipe,
    ModelRecipe,
    NearDuplicateRecipe,
    PiiRecipe,
    PythonDocsSource,
    QualityRecipe,
    Recipe,
    ServeRecipe,
    Source,
    SparkRecipe,
    SplitRecipe,
)
from nexus_llm.recipe.serving import PrioritiesRecipe, TimeoutsRecipe
from nexus_llm.recipe.telemetry import SamplesRecipe, TelemetryRecipe
from nexus_llm.recipe.train import (
    DistributedRecipe,
    DpoRecipe,
    GuardRecipe,
    SageMakerRecipe,
    TrackingRecipe,
    TrainRecipe,
)

__all__ = [
    "AwsDataRecipe",
    "BlockRecipe",
    "CostRecipe",
    "DataRecipe",
    "DistributedRecipe",
    "DpoRecipe",
    "EvaluateRecipe",
    "EvaluationSet",
    "FilesSource",
    "GateRecipe",
    "GuardRecipe",
    "KeysRecipe",
    "LanguageRecipe",
    "ModelRecipe",
    "NearDuplicateRecipe",
    "ObjectiveRecipe",
    "PackageRecipe",
    "PiiRecipe",
    "PrioritiesRecipe",
    "Purchase",
    "PythonDocsSource",
    "QualityRecipe",
    "Recipe",
    "RuleName",
    "SageMakerRecipe",
    "SamplesRecipe",
    "ServeRecipe",
    "ServiceRecipe",
    "Source",
    "SparkRecipe",
    "SplitRecipe",
    "TaskRule",
    "TelemetryRecipe",
    "TimeoutsRecipe",
    "TrackingRecipe",
    "TrafficRecipe",
    "TrainRecipe",
    "default_recipe",
    "load_recipe",
    "load_section",
    "recipe_yaml",
]
