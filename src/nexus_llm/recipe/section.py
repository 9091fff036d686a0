"""What every part of a recipe is made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of the recipe: immutable, and a key that it does not know is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
